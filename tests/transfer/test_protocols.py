"""Protocols: right against brute force, read the test split once, and leave the encoder bit for bit as it was."""

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from datamodules.image_folder import ImageFolder
from datamodules.rows import Texts
from datamodules.spec import DataSpec
from datamodules.text_classification import TextClassification
from errors import BadInput
from models.encoder import ALL_LAYERS
from models.text_encoder import TextEncoder
from models.timm_encoder import TimmEncoder
from transfer.finetune import FineTune
from transfer.knn import KNN, knn_predict, validation_probe
from transfer.linear import LinearProbe, fit, make_model
from transfer.protocol import Bench, check_task, labels_learned_from, scores
from transfer.tfidf import TFIDF
from transfer.zero_shot import ZeroShot

TRAINER = {
    "accelerator": "cpu",
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "precision": "fp32",
    "attention": "auto",
    "workers": 0,
    "accumulate": 1,
    "activation_checkpointing": False,
    "half_stream": False,
    "compile": False,
}


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path, 0, TRAINER, "fp32")


def brute_force_knn(query, bank, labels, num_classes: int, k: int, temperature: float) -> list[int]:
    """One query at a time, in float64, by sorting all similarities."""
    unit = [vector / np.linalg.norm(vector) for vector in bank.double().numpy()]
    predicted = []
    for vector in query.double().numpy():
        similarity = [float(vector / np.linalg.norm(vector) @ other) for other in unit]
        nearest = sorted(range(len(unit)), key=lambda i: -similarity[i])[:k]
        votes = [0.0] * num_classes
        for i in nearest:
            votes[int(labels[i])] += np.exp(similarity[i] / temperature)
        predicted.append(int(np.argmax(votes)))
    return predicted


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 1.0)])
def test_knn_equals_brute_force(k, temperature):
    torch.manual_seed(0)
    bank, query, labels = torch.randn(200, 8), torch.randn(50, 8), torch.randint(0, 5, (200,))
    ours = knn_predict(query, bank, labels, 5, k, temperature).tolist()
    assert ours == brute_force_knn(query, bank, labels, 5, k, temperature)


def test_knn_in_chunks_equals_one_by_one():
    torch.manual_seed(0)
    bank, query, labels = torch.randn(50, 4), torch.randn(2100, 4), torch.randint(0, 3, (50,))
    whole = knn_predict(query, bank, labels, 3)
    assert whole.tolist() == [int(knn_predict(row[None], bank, labels, 3)) for row in query]


def test_scores_against_counting():
    predicted, labels = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 2, 0])
    found = scores(predicted, labels, DataSpec("tiny", "image", 6, class_names=("a", "b", "c"), selection="matthews"))
    assert found["accuracy"] == pytest.approx(4 / 6)
    f1 = [2 * 1 / (2 * 1 + 1 + 1), 2 * 1 / (2 * 1 + 0 + 1), 2 * 2 / (2 * 2 + 1 + 0)]
    assert found["macro_f1"] == pytest.approx(sum(f1) / 3)
    # Matthews' correlation for several classes, from the covariances of one-hot labels and predictions (Gorodkin 2004)
    truth, guess = np.eye(3)[labels], np.eye(3)[predicted]
    covariance = lambda a, b: sum(np.cov(a[:, i], b[:, i], bias=True)[0, 1] for i in range(3))  # noqa: E731
    expected = covariance(truth, guess) / (covariance(truth, truth) * covariance(guess, guess)) ** 0.5
    assert found["matthews"] == pytest.approx(expected)


def test_scores_without_classes_are_correlations():
    labels, predicted = np.array([0.0, 1.0, 2.0, 5.0]), np.array([0.1, 0.3, 0.2, 0.9])
    found = scores(predicted, labels, DataSpec("tiny", "text", 4, selection="spearman"))
    assert found["spearman"] == pytest.approx(1 - 6 * (0 + 1 + 1 + 0) / (4 * 15))
    assert found["pearson"] == pytest.approx(np.corrcoef(labels, predicted)[0, 1])


def test_predictions_that_are_all_the_same_correlate_with_nothing():
    spec = DataSpec("tiny", "text", 4, selection="spearman")
    for predicted, labels in ((np.ones(4), np.arange(4)), (np.arange(4), np.ones(4))):
        assert scores(predicted, labels, spec) == {"spearman": 0.0, "pearson": 0.0}


def test_knn_of_scores_is_their_weighted_mean():
    bank, query = torch.randn(9, 4), torch.randn(5, 4)
    labels = torch.arange(9.0)
    cosine = torch.nn.functional.cosine_similarity(query[:, None], bank[None], dim=-1).double()
    nearest = cosine.topk(3, dim=1)
    weight = (nearest.values / 0.07).exp()
    expected = (weight * labels[nearest.indices]).sum(1) / weight.sum(1)
    assert torch.allclose(knn_predict(query, bank, labels, 0, k=3).double(), expected, atol=1e-5)


@pytest.mark.parametrize("protocol", [KNN(k=5), LinearProbe()], ids=["knn", "linear"])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_probes_learn_the_task_and_leave_the_encoder_unchanged(data, bench, protocol, kind, request):
    encoder = request.getfixturevalue(kind)
    encoder.train()
    before = copy.deepcopy(encoder.state_dict())
    read = []
    evaluation = data.evaluation_loader
    data.evaluation_loader = lambda split, *rest, **named: read.append(split) or evaluation(split, *rest, **named)
    metrics = protocol(encoder, data, bench)
    assert metrics["accuracy"] > 0.6  # colour is easy; chance is a third
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    assert encoder.training
    assert all(weight.grad is None for weight in encoder.parameters())
    assert read.count("test") == 1


def test_finetune_learns_the_task_and_reads_the_test_split_once(data, bench, vit):
    read = []
    evaluation = data.evaluation_loader
    data.evaluation_loader = lambda split, *rest, **named: read.append(split) or evaluation(split, *rest, **named)
    before = vit.net.blocks[0].attn.qkv.weight.clone()
    protocol = FineTune(torch.optim.AdamW, epochs=2, min_steps=25, batch_size=16, drop_path=0.1, mix=0.5, base_lr=8e-3)
    metrics = protocol(vit, data, bench)
    assert metrics["accuracy"] > 0.6
    assert metrics["steps"] == 25
    assert not torch.equal(before, vit.net.blocks[0].attn.qkv.weight)
    assert read.count("test") == 1


@pytest.mark.parametrize(("pretrained", "asked", "used"), [(False, None, 1.0), (True, None, 0.75), (False, 0.5, 0.5)])
def test_fine_tuning_from_scratch_decays_no_layer(data, bench, vit, monkeypatch, pretrained, asked, used):
    rates = []

    class Watched(torch.optim.AdamW):
        def __init__(self, groups, lr):
            super().__init__(groups, lr=lr)
            names = {id(weight): name for name, weight in vit.named_parameters()}
            found = {names.get(id(weight)): group["lr"] / lr for group in self.param_groups for weight in group["params"]}
            rates.append(next(rate for name, rate in found.items() if name and "patch_embed" in name))

    monkeypatch.setattr(vit, "pretrained", pretrained)
    metrics = FineTune(Watched, epochs=1, min_steps=1, batch_size=16, layer_decay=asked)(vit, data, bench)
    assert rates[0] == pytest.approx(used ** (len(vit.blocks) + 1))
    assert metrics["layer_decay"] == used


def test_the_labels_that_count_are_those_that_a_protocol_learns_from(data):
    num = {name: part.num for name, part in data.splits.items()}
    assert num["val"] > 0
    assert labels_learned_from(FineTune(torch.optim.AdamW), data) == num["train"]
    for protocol in (KNN(), LinearProbe(), TFIDF()):
        assert labels_learned_from(protocol, data) == num["train"] + num["val"]
    assert labels_learned_from(ZeroShot(("{}",)), data) == 0


def text_task(texts: Path, cache: Path) -> TextClassification:
    return TextClassification(
        str(texts / "task"), {"kind": "wordpiece", "vocab_size": 200, "lowercase": True}, cache=str(cache)
    )


@pytest.mark.parametrize("speed", [{"accumulate": 2}, {"accumulate": 4, "activation_checkpointing": True}])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_fine_tuning_in_parts_learns_the_same(tmp_path, data, texts, modality, speed):
    task = data if modality == "image" else text_task(texts, tmp_path)
    learned, sizes = [], []
    for settings in (TRAINER, TRAINER | speed):
        torch.manual_seed(0)
        if modality == "image":
            encoder = TimmEncoder(task.spec, "vit_tiny_patch16_224", depth=2)
        else:
            encoder = TextEncoder(task.spec, "bert", width=32, depth=2, heads=2, feedforward=64)
        fresh = torch.cat([weight.detach().flatten() for weight in encoder.parameters()])
        encoder.blocks[0].register_forward_pre_hook(lambda block, given: sizes.append((block.training, len(given[0]))))
        protocol = FineTune(torch.optim.SGD, epochs=1, min_steps=4, batch_size=8, drop_path=0.0, base_lr=1.0)
        protocol(encoder, task, Bench(tmp_path, 0, settings, "fp32"))
        learned.append(torch.cat([weight.detach().flatten() for weight in encoder.parameters()]))
        assert not torch.allclose(learned[-1], fresh, atol=1e-4)
    torch.testing.assert_close(*learned, rtol=1e-4, atol=1e-6)
    assert {(True, 8), (True, 8 // speed["accumulate"])} <= set(sizes)


@pytest.mark.parametrize(
    ("settings", "model", "expected"),
    [
        ({"batch_size": 9}, "vit_tiny_patch16_224", "transfer.batch_size=9 cannot be shared out equally"),
        ({"batch_size": 8, "mix": 0.5}, "vit_tiny_patch16_224", "which pictures of a step are mixed"),
        ({"batch_size": 8}, "resnet18", "batch norm"),
    ],
)
def test_fine_tuning_that_cannot_be_parted_is_refused(data, tmp_path, settings, model, expected):
    encoder = TimmEncoder(data.spec, model)
    with pytest.raises(BadInput, match=expected):
        FineTune(torch.optim.AdamW, **settings)(encoder, data, Bench(tmp_path, 0, TRAINER | {"accumulate": 2}, "fp32"))


def test_the_probe_of_a_random_encoder_is_the_same_for_the_same_seed(data, bench, spec):
    accuracies = []
    for _ in range(2):
        torch.manual_seed(5)
        encoder = TimmEncoder(spec, "resnet18")
        accuracies.append(LinearProbe()(encoder, data, bench))
    assert accuracies[0] == accuracies[1]


def test_the_strength_is_chosen_on_validation_by_value(data):
    torch.manual_seed(0)
    train, val = np.random.default_rng(0).normal(size=(2, 60, 4))
    labels = (train[:, 0] > 0).astype(int), (val[:, 0] > 0).astype(int)
    found = LinearProbe(strengths=(1.0, 1e-9)).search(train, labels[0], val, labels[1], data.spec)
    assert list(found) == [1e-9, 1.0]  # of equals the first is taken
    assert found[1.0] > max(0.9, found[1e-9])


def test_a_strength_behind_a_bump_is_found(data):
    rng = np.random.default_rng(1)
    wide, told = rng.normal(size=(2, 400)), rng.normal(size=(2, 400))
    # what tells the classes apart lies in the small difference of two features, as in layers of random weights
    features = np.stack([wide, wide + 0.01 * told, *rng.normal(size=(20, 2, 400))], axis=-1)
    labels = (told > 0).astype(int)
    found = LinearProbe().search(features[0], labels[0], features[1], labels[1], data.spec)
    accuracies = list(found.values())
    best = int(np.argmax(accuracies))
    assert list(found)[best] >= 100
    assert accuracies[best] > 0.9
    assert max(accuracies[1:3]) < accuracies[0], "there is no bump"


@pytest.mark.parametrize(("num_classes", "num_features"), [(2, 12), (2, 2_001), (3, 12)])
def test_every_strength_gets_the_optimum(num_classes, num_features):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(150, num_features))
    labels = (features[:, :num_classes] + rng.normal(size=(150, num_classes))).argmax(1)
    spec = SimpleNamespace(num_classes=num_classes)
    model = make_model(1e-3, 1000, spec, num_features)
    for strength in (1e-3, 0.1):  # the second begins where the first ended
        fitted = fit(model.set_params(C=strength), features, labels)
        alone = LogisticRegression(C=strength, solver="newton-cg", tol=1e-8, max_iter=1000).fit(features, labels)
        np.testing.assert_allclose(fitted.predict_proba(features), alone.predict_proba(features), atol=2e-3)


def test_a_readout_is_chosen_among_single_layers_or_taken_by_name():
    offered = ("pooled", "layer 0 mean", ALL_LAYERS)
    assert LinearProbe().candidates(offered) == ["pooled", "layer 0 mean"]
    assert LinearProbe(readout=ALL_LAYERS).candidates(offered) == [ALL_LAYERS]
    with pytest.raises(BadInput, match="no transfer.readout 'layer 9 mean'; did you mean layer 0 mean"):
        LinearProbe(readout="layer 9 mean").candidates(offered)


def test_the_part_that_chooses_a_readout_has_all_classes(data, bench, vit, monkeypatch):
    train = data.splits["train"]
    in_turns = np.argsort(train.labels, kind="stable").reshape(3, -1).T.ravel()
    data.splits["train"] = train.subset(in_turns)
    assert data.splits["train"].labels[:6].tolist() == [0, 1, 2, 0, 1, 2]
    monkeypatch.setattr("transfer.linear.ENOUGH", train.num // 3)
    classes = []
    search = LinearProbe.search

    def watched(self, features, labels, **others):
        classes.append(np.bincount(labels).tolist())
        return search(self, features, labels, **others)

    monkeypatch.setattr(LinearProbe, "search", watched)
    monkeypatch.setattr(type(vit), "readout_names", ("pooled", "another"))
    monkeypatch.setattr(vit, "readouts", lambda inputs, names: dict.fromkeys(names, vit.embed(inputs)))
    assert LinearProbe(strengths=(1.0,))(vit, data, bench)["accuracy"] > 1 / 3
    assert classes == [[6, 6, 6], [6, 6, 6], [18, 18, 18]]
    classes.clear()
    LinearProbe(strengths=(1.0,), readout="pooled")(vit, data, bench)  # nothing to choose
    assert classes == [[18, 18, 18]]


def test_a_split_in_which_nothing_can_be_read_is_named(tmp_path, pictures, bench, vit):
    broken = shutil.copytree(pictures, tmp_path / "broken")
    for path in (broken / "test").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(BadInput, match=r"^'image_folder' has no sample in its split 'test' that can be read$"):
        KNN(k=5)(vit, ImageFolder(str(broken), batch_size=4, image_size=32), bench)


def test_texts_without_a_word_are_no_task_of_tfidf(bench):
    texts = Texts([("a",), ("?",)], np.array([0, 1]))
    splits = dict.fromkeys(("train", "val", "test"), texts)
    data = SimpleNamespace(modality="text", spec=SimpleNamespace(name="letters"), splits=splits)
    with pytest.raises(BadInput, match="no word of two or more letters in the training texts of 'letters'"):
        TFIDF()(None, data, bench)


def test_the_quick_probe_never_touches_the_test_split(data, vit):
    data.splits = {split: data.splits[split] for split in ("train", "val")}
    features, accuracy = validation_probe(vit, data, bank=30, queries=12)
    assert features.shape == (12, 192)
    assert 0 <= accuracy <= 1


def test_tasks_that_are_none(tmp_path, pictures, data, bench, vit):
    with pytest.raises(BadInput, match="k=500 neighbours"):
        KNN(k=500)(vit, data, bench)
    one = ImageFolder(str(pictures / "train"), batch_size=4)
    one.splits = {name: split.subset(np.flatnonzero(split.labels == 0)) for name, split in one.splits.items()}
    with pytest.raises(BadInput, match="one class only"):
        check_task(one)
    unlabelled = ImageFolder(str(pictures / "train" / "red"), batch_size=4)
    with pytest.raises(BadInput, match="no labels"):
        check_task(unlabelled)
