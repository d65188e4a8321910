"""Zero-shot classification and retrieval against brute force, chance against simulation, and where pairs come from."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import text_encoder
from made_pairs import TinyPairs
from test_protocols import TRAINER

from conf import read_choice
from conf.targets import OURS
from datamodules.image_folder import ImageFolder
from errors import BadInput
from models.export import save_encoder
from models.timm_encoder import TimmEncoder
from objectives.clip import InfoNCE
from objectives.draw import Draw
from objectives.image_text import ImageText
from training.course import Steps
from training.optimization import Optimization
from training.pretraining import Pretraining
from transfer.features import embed_texts
from transfer.knn import KNN
from transfer.protocol import Bench, judged_part
from transfer.ranking import best_ranks, chance_of_median_rank, chance_of_recall
from transfer.retrieval import Retrieval, retrieve
from transfer.source import Source
from transfer.zero_shot import ZeroShot

CONFIG = {
    "names": {"objective": "clip", "model": "vit_t", "datamodule": "tiny_pairs"},
    "seed": 3,
    "datamodule": {"_target_": "made_pairs.TinyPairs", "root": ""},
    "objective": {},
    **{node: {} for node in ("model", "optimizer", "budget", "trainer", "monitor")},
    "trial_flops": 1e9,
}


@pytest.fixture(autouse=True)
def tiny_pairs_can_be_built(monkeypatch):
    monkeypatch.setattr("conf.targets.OURS", (*OURS, "made_pairs"))


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path, 0, TRAINER, "fp32")


@pytest.fixture
def data(pictures) -> TinyPairs:
    return TinyPairs(pictures)


@pytest.fixture
def objective(data) -> ImageText:
    torch.manual_seed(0)
    encoder = TimmEncoder(data.spec, "vit_tiny_patch16_224", depth=1)
    return ImageText(encoder, data.spec, InfoNCE(), lambda spec: text_encoder("bert", spec))


def test_ranks_break_ties_by_index():
    similarity = torch.tensor([[0.5, 0.9, 0.5, 0.1], [0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4]])
    positive = torch.tensor([[0, 0, 1, 0], [0, 0, 1, 1], [1, 0, 1, 0]]).bool()
    assert best_ranks(similarity, positive).tolist() == [3, 3, 2]


def test_a_similarity_that_is_no_number_is_never_the_nearest():
    nan = torch.nan
    similarity = torch.tensor([[nan, nan, nan], [0.1, nan, 0.3], [nan, 0.2, 0.1], [0.9, nan, 0.1]])
    positive = torch.tensor([[0, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0]]).bool()
    assert best_ranks(similarity, positive).tolist() == [3, 3, 1, 1]


@pytest.mark.parametrize("tower", ["image", "text"])
def test_vectors_that_are_no_numbers_are_refused(data, objective, bench, tower):
    with torch.no_grad():
        getattr(objective.head, tower).weight[0, 0] = torch.nan
    name = {"image": "vit_tiny_patch16_224", "text": "TextEncoder"}[tower]
    for protocol in (Retrieval(), ZeroShot(("a {} picture",))):
        with pytest.raises(BadInput, match=f"encoder '{name}' gives NaN or infinity for .* in fp32.*diverged"):
            protocol(objective.pair, data, bench)
    if tower == "image":
        with torch.no_grad():
            objective.encoder.net.norm.weight[0] = torch.inf
        with pytest.raises(BadInput, match="of split 'train'"):
            KNN(k=3)(objective.encoder, data.task, bench)


def brute_force(image: np.ndarray, captions: list[tuple[str, ...]], vector_of: dict[str, np.ndarray]) -> dict[str, float]:
    """The full matrix in float64, one query after the other, by sorting."""
    owners = [(i, text) for i, own in enumerate(captions) for text in own]
    similarity = np.array([[float(picture @ vector_of[text]) for _, text in owners] for picture in image])
    to_text, to_image = [], []
    for i in range(len(image)):
        order = sorted(range(len(owners)), key=lambda j: (-similarity[i, j], j))
        to_text.append(1 + next(place for place, j in enumerate(order) if owners[j][1] in captions[i]))
    for j, (_, text) in enumerate(owners):
        order = sorted(range(len(image)), key=lambda i: (-similarity[i, j], i))
        to_image.append(1 + next(place for place, i in enumerate(order) if text in captions[i]))
    found = {}
    for way, ranks in (("image_to_text", to_text), ("text_to_image", to_image)):
        found |= {f"{way}_recall_at_{k}": np.mean(np.array(ranks) <= k) for k in (1, 5, 10)}
        found[f"{way}_median_rank"] = np.median(ranks)
    return found


@pytest.mark.parametrize("whole_numbers", [True, False])  # whole numbers tie often
@pytest.mark.parametrize("num", [7, 300])  # less and more than a chunk
def test_retrieval_equals_brute_force_with_several_and_repeated_captions(whole_numbers, num):
    rng = np.random.default_rng(0)
    texts = [f"text {i}" for i in range(num)]
    captions = [tuple(texts[i] for i in rng.integers(0, num // 2 + i // 2 + 1, rng.integers(1, 4))) for i in range(num)]
    used = list(dict.fromkeys(text for own in captions for text in own))
    assert any(len(set(own)) < len(own) for own in captions) or num == 7  # also twice at one picture
    draw = (lambda *shape: rng.integers(-2, 3, shape).astype(float)) if whole_numbers else rng.normal
    image, text = (draw(size, 3) if whole_numbers else draw(size=(size, 3)) for size in (num, len(used)))
    expected = brute_force(image, captions, dict(zip(used, text, strict=True)))
    number = {text: i for i, text in enumerate(used)}
    found = retrieve(torch.tensor(image), torch.tensor(text), [[number[text] for text in own] for own in captions])
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["recall_at_1"] == pytest.approx(
        (expected["image_to_text_recall_at_1"] + expected["text_to_image_recall_at_1"]) / 2
    )
    chances = {name.removeprefix("chance_") for name in found if name.startswith("chance_")}
    assert chances == {name for name in found if not name.startswith("chance_")}


def test_chance_equals_a_random_order():
    rng = np.random.default_rng(0)
    num_candidates, num_positives = 40, np.array([1, 1, 2, 5, 12])
    orders = rng.permuted(np.tile(np.arange(num_candidates), (20_000, 1)), axis=1)
    ranks = np.stack([1 + orders[:, :positives].min(1) for positives in num_positives], axis=1)
    for k in (1, 5, 10):
        found = chance_of_recall(num_positives, num_candidates, k)
        assert found == pytest.approx((ranks <= k).mean(), abs=4 * 0.5 / len(ranks) ** 0.5)
    assert chance_of_median_rank(num_positives, num_candidates) == np.median(ranks)
    assert chance_of_median_rank(np.array([1]), 4) == 2  # at which recall is one half
    assert chance_of_recall(np.array([1]), 400, 1) == pytest.approx(1 / 400)
    assert chance_of_recall(np.array([3]), 7, 10) == 1.0  # fewer candidates than k
    assert chance_of_recall(np.array([0]), 7, 3) == 0.0
    small = [1 + min(places) for places in itertools.combinations(range(6), 2)]  # every order counted
    assert chance_of_recall(np.array([2]), 6, 2) == pytest.approx(np.mean(np.array(small) <= 2))


@pytest.mark.parametrize("captions", ["all", "first"])
def test_retrieval_reads_the_test_split_once_and_leaves_out_what_cannot_be_read(data, objective, bench, captions):
    pair, load = objective.pair, data.splits["test"].load

    def corrupt(index: int):
        if index in (4, 9):
            raise OSError("cut")
        return load(index)

    object.__setattr__(data.splits["test"], "load", corrupt)
    read = []
    evaluation = data.evaluation_loader
    data.evaluation_loader = lambda split, *rest, **named: read.append(split) or evaluation(split, *rest, **named)
    found = Retrieval(captions)(pair, data, bench)
    assert read == ["test"]
    kept = [own[: 1 if captions == "first" else None] for i, own in enumerate(data.captions("test")) if i not in (4, 9)]
    with torch.no_grad():
        pair.eval()
        batch = next(iter(evaluation("test")))
        image = pair.images(batch["views"][:, 0]).double().numpy()
        texts = list(dict.fromkeys(text for own in kept for text in own))
        vector_of = {text: pair.texts([text])[0].double().numpy() for text in texts}
    assert len(image) == 22
    assert {name: found[name] for name in found if name.endswith(("_1", "_5", "_10"))} == pytest.approx(
        {name: found[name] for name in found if name.endswith(("_1", "_5", "_10"))}
        | {name: value for name, value in brute_force(image, kept, vector_of).items() if "recall" in name}
    )


def test_zero_shot_equals_brute_force(data, objective, bench):
    pair = objective.pair
    protocol = ZeroShot(("{}", "a picture that is {}", "very {}"))
    found = protocol(pair, data.task, bench)
    pair.eval()
    weights = []
    with torch.no_grad():
        for name in data.spec.class_names:
            prompts = [pair.texts([text])[0].double() for text in (name, f"a picture that is {name}", f"very {name}")]
            mean = sum(prompt / prompt.norm() for prompt in prompts) / 3
            weights.append(mean / mean.norm())
        batch = next(iter(data.task.evaluation_loader("test")))
        images = pair.images(batch["views"][:, 0]).double()
        classes = protocol.classifier(pair, list(data.spec.class_names))
    torch.testing.assert_close(classes.double(), torch.stack(weights), rtol=1e-5, atol=1e-6)
    predicted = [max(range(3), key=lambda c: float(image @ weights[c])) for image in images]
    assert found["accuracy"] == pytest.approx(np.mean(np.array(predicted) == batch["label"].numpy()))
    assert found["top_5"] == 1.0  # of three classes
    assert found["chance_accuracy"] == pytest.approx(1 / 3)
    assert found["chance_top_5"] == 1.0
    assert found["majority"] == pytest.approx(1 / 3)
    assert 0 <= found["macro_f1"] <= 1


def test_top_5_counts_the_rank_of_the_class(objective, bench, monkeypatch):
    """Eight classes with given embeddings: the picture of class c is nearest to c + 1, then c + 2, ..."""
    order = torch.tensor([[(c + 1 + i) % 8 for i in range(8)] for c in range(8)])  # the own class comes last
    order[0] = torch.tensor([1, 2, 0, 3, 4, 5, 6, 7])  # third
    order[1] = torch.tensor([1, 2, 0, 3, 4, 5, 6, 7])  # first
    order[2] = torch.tensor([0, 1, 3, 4, 5, 2, 6, 7])  # sixth
    order[3] = torch.tensor([0, 1, 2, 4, 3, 5, 6, 7])  # fifth
    similarity = torch.empty(8, 8).scatter_(1, order, torch.linspace(1, -1, 8).expand(8, 8))
    monkeypatch.setattr("transfer.zero_shot.embed_pictures", lambda *_: (similarity, torch.arange(8), torch.arange(8)))
    monkeypatch.setattr(ZeroShot, "classifier", lambda *_: torch.eye(8))
    spec = type("Spec", (), {"class_names": tuple("abcdefgh"), "num_classes": 8, "selection": "accuracy", "name": "eight"})
    found = ZeroShot(("{}",))(None, type("Task", (), {"spec": spec}), bench)
    assert found["accuracy"] == 1 / 8
    assert found["top_5"] == 3 / 8


def test_texts_are_embedded_in_their_own_order(objective):
    pair = objective.pair.eval()
    texts = ["very " * (i % 9) + "red" for i in range(600)]
    found = embed_texts(pair, texts)
    with torch.no_grad():
        torch.testing.assert_close(found[[0, 7, 300, 599]], torch.cat([pair.texts([texts[i]]) for i in (0, 7, 300, 599)]))


def test_towers_learn_what_captions_say(data, objective, bench):
    """Thirty steps on three colours: far above chance on held-out pictures."""
    optimizer = Optimization(torch.optim.AdamW, base_lr=0.06).optimizer(objective, 8)
    for batch in data.train_loader(objective.views(), 0, 30):
        optimizer.zero_grad()
        objective(batch, Draw(0, batch["epoch"], batch["index"])).loss.backward()
        optimizer.step()
        objective.after_step(0.0)
    read, evaluation = [], data.task.evaluation_loader
    data.task.evaluation_loader = lambda split, *rest, **named: read.append(split) or evaluation(split, *rest, **named)
    zero_shot = ZeroShot(("{}", "a picture that is mostly {}"))(objective.pair, data.task, bench)
    assert read == ["test"]
    assert zero_shot["accuracy"] > 0.8
    found = Retrieval()(objective.pair, data, bench)
    assert found["recall_at_1"] > 2 * found["chance_recall_at_1"]


def write_run(objective: ImageText, folder: Path, pictures: Path) -> None:
    """As a run leaves it."""
    config = CONFIG | {"datamodule": CONFIG["datamodule"] | {"root": str(pictures)}}
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    recipes = {name: part.exported()[1] for name, part in objective.exports().items()}
    for name, part in objective.exports().items():
        save_encoder(part, folder, name)
    module = Pretraining(objective, Optimization(torch.optim.AdamW, 1e-3), Steps(1), 8, 0, {"config": config, **recipes})
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "checkpoints" / "last.ckpt")


def find(checkpoint: str | Path, protocol, outputs: Path = Path("outputs")) -> Source:
    settings = {"checkpoint": str(checkpoint), "outputs": str(outputs), "text_model": "bert_mini"}
    return Source.find(settings, {"transfer": "zero_shot", "datamodule": None, "model": None}, protocol)


def test_a_run_and_its_checkpoint_give_the_image_tower_and_the_pair(tmp_path, objective, data, pictures, bench):
    run = tmp_path / "outputs" / "run"
    write_run(objective, run, pictures)
    expected = KNN(k=5)(objective.encoder, data.task, bench)
    for checkpoint in (run, run / "checkpoints" / "last.ckpt", run / "image_encoder.safetensors", "latest"):
        source = find(checkpoint, KNN(), tmp_path / "outputs")
        assert source.encoder.training  # or fine-tuning would go without dropout and batch statistics
        opened = source.open_data(None, KNN())
        assert opened.spec.vocabulary.tokenizer.get_vocab() == data.spec.vocabulary.tokenizer.get_vocab()
        judged = judged_part(KNN(), opened, 1.0, 0)
        assert isinstance(judged, ImageFolder)
        assert KNN(k=5)(source.model_for(KNN(), opened.spec, judged.spec), judged, bench) == expected
    for checkpoint in (run, run / "checkpoints" / "last.ckpt"):
        source = find(checkpoint, Retrieval())
        pair = source.model_for(Retrieval(), opened.spec, opened.spec).eval()
        batch = next(iter(data.evaluation_loader("test")))
        with torch.no_grad():
            ours = objective.eval().pair
            assert torch.equal(pair.images(batch["views"][:, 0]), ours.images(batch["views"][:, 0]))
            assert torch.equal(pair.texts(batch), ours.texts(batch))


def test_a_run_of_one_encoder_has_no_pair(tmp_path, vit, pictures):
    config = CONFIG | {"names": CONFIG["names"] | {"objective": "mae"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    save_encoder(vit, tmp_path)
    with pytest.raises(BadInput, match=r"\(objective=mae\) has one encoder only; .*fit: finetune, knn, linear, tfidf"):
        find(tmp_path, Retrieval())


def test_without_a_checkpoint_a_fresh_pair_is_the_baseline(data, pictures, bench):
    protocol = Retrieval()
    settings = {"checkpoint": "none", "outputs": "", "text_model": "bert_tiny", "model": None}
    source = Source.find(settings, {"transfer": "retrieval", "datamodule": None, "model": None}, protocol)
    object.__setattr__(source, "model_settings", read_choice("model", "vit_t") | {"depth": 1})
    pair = source.model_for(protocol, data.spec, data.spec)
    assert F.cosine_similarity(pair.texts(["red"]), pair.texts(["red"])).item() == pytest.approx(1)
    assert pair.text_encoder.width == 128
    assert Retrieval()(pair, data, bench)["recall_at_1"] < 1
    with pytest.raises(BadInput, match="has none; fits: datamodule=emoji_captions"):
        source.model_for(protocol, data.task.spec, data.task.spec)


def test_what_cannot_be_judged_is_said(data, objective):
    with pytest.raises(BadInput, match=r"label_fraction=0.5: this transfer learns from no labels"):
        judged_part(ZeroShot(("{}",)), data, 0.5, 0)
    with pytest.raises(BadInput, match="has no captions"):
        judged_part(Retrieval(), data.task, 1.0, 0)
    data.task = None
    with pytest.raises(BadInput, match="has no labels; .*transfer=retrieval"):
        judged_part(ZeroShot(("{}",)), data, 1.0, 0)
    with pytest.raises(BadInput, match="no transfer.captions 'some'; .*all, first"):
        Retrieval("some")
    for templates in ((), ("a picture",)):
        with pytest.raises(BadInput, match="transfer.templates"):
            ZeroShot(templates)


def test_two_classes_of_one_name(objective, bench):
    spec = type("Spec", (), {"class_names": ("a_b", "a b"), "name": "twins"})
    with pytest.raises(BadInput, match="two classes called 'a b'"):
        ZeroShot(("{}",))(objective.pair, type("Task", (), {"spec": spec}), bench)
