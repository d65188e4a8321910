"""The commands on text, really run: every objective and model for two steps, transfer after it, and the table at the end."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, error_line, inside
from made_runs import small_model
from test_commands import SMALL, choices

from conf import choices_of, class_of, modality
from datamodules import torchvision_sets
from models.export import load_encoder
from objectives.objective import Objective
from reports.result import read_result

OBJECTIVES = [name for name in choices_of("objective") if modality("objective", name) == "text"]
UNLABELLED = [name for name in OBJECTIVES if "label" not in class_of("objective", name).needs]
TINY = ["model.depth=1", "model.width=32", "model.heads=2", "model.feedforward=64", "datamodule.tokenizer.vocab_size=400"]
TASK = ["datamodule=text_classification", "datamodule.root=task", "datamodule.batch_size=8"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """A folder with a corpus of 40 files, and with a labelled task: which of two vocabularies a sentence is made of."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abdegiklmnorstu"), rng.integers(2, 7))) for _ in range(200)]
    (folder / "corpus").mkdir()
    (folder / "task").mkdir()
    for i in range(40):
        (folder / "corpus" / f"{i:02}.txt").write_text(" ".join(rng.choice(words, 400)) + ".")
    for split, num in (("train", 80), ("val", 24), ("test", 24)):
        rows = [
            " ".join(rng.choice(words[:100] if i % 2 else words[100:], 8)) + f"\t{'odd' if i % 2 else 'even'}"
            for i in range(num)
        ]
        (folder / "task" / f"{split}.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


CORPUS = ["datamodule=text_files", "datamodule.files=corpus/*.txt"]


@pytest.fixture(scope="module")
def sweep(texts) -> Path:
    """Every objective on running text, those together whose models have the same settings."""
    models: dict[tuple[str, ...], list[str]] = {}
    for name in UNLABELLED:
        models.setdefault(tuple(small_model(name)), []).append(name)
    for words, names in models.items():
        done = inside(
            "train.py", "-m", f"objective={','.join(names)}", *CORPUS, *words, TINY[-1], *SMALL,
            "hydra.sweep.subdir=${hydra:runtime.choices.objective}", "hydra.sweep.dir=sweep", cwd=texts,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
    return texts / "sweep"


def test_every_objective_runs_and_leaves_what_is_promised(sweep):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name in UNLABELLED:
        folder = sweep / name
        assert {path.name for path in folder.iterdir()} >= {
            "config.yaml", "result.json", "encoder", "encoder.json", "checkpoints", "tensorboard",
        }  # fmt: skip
        result = read_result(folder / "result.json")
        assert (result.objective, result.status, result.budget_spent["samples"]) == (name, "finished", 16)
        assert (
            result.budget_spent["tokens"]
            == 16 * yaml.safe_load((folder / "config.yaml").read_text())["datamodule"]["block_length"]
        )
        assert {"feature_std", "rankme"} < set(result.metrics)
        likelihoods = {
            f"val_{kind}" for kind in ("bits_per_byte", "pseudo_perplexity", "generator_pseudo_perplexity", "span_perplexity")
        }
        predicts = class_of("objective", name).likelihood is not Objective.likelihood
        found = [result.metrics[kind] for kind in likelihoods & set(result.metrics)]
        assert len(found) == predicts
        assert all(value > 1 for value in found)
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        assert any(tag.endswith("/text_summary") for tag in events.Tags()["tensors"]), name  # each shows something


def test_transfer_of_runs_and_of_nothing_then_the_table(sweep, texts):
    done = inside(
        "finetune.py", "-m", "checkpoint=sweep/mlm,sweep/mlm/checkpoints/last.ckpt,sweep/causal_lm,sweep/span_corruption",
        "transfer=linear", *TASK, cwd=texts,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    done = inside(
        "finetune.py", "-m", "checkpoint=none", "transfer=knn,finetune,tfidf", "seed=0,1", *TASK, *TINY[:-1],
        "datamodule.tokenizer.path=sweep/mlm", "model=bert_mini", cwd=texts,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    records = [read_result(path) for path in (texts / "outputs" / "transfer").rglob("result.json")]
    assert len(records) == 4 + 6
    bags = [record.metrics["accuracy"] for record in records if record.transfer["protocol"] == "tfidf"]
    assert bags[0] == bags[1] == 1.0  # the words of a sentence say all
    found = {(record.objective, record.transfer["checkpoint"]): record.metrics for record in records}
    assert found["mlm", "sweep/mlm"]["accuracy"] > 0.7  # half the words decide, whatever the encoder
    same = (found["mlm", "sweep/mlm"], found["mlm", "sweep/mlm/checkpoints/last.ckpt"])
    assert same[0] == same[1]  # the run and its last checkpoint are the same encoder, layer and pooling included
    assert isinstance(same[0]["readout"], str)
    done = inside("compare.py", "report=outputs", cwd=texts)
    assert done.returncode == 0, done.stdout
    assert "span_corruption" in done.stdout


def test_networks_of_our_own_are_judged_like_any_other(sweep, texts):
    checkpoints = "checkpoint=sweep/skip_gram,sweep/cbow/checkpoints/last.ckpt,sweep/bidirectional_lm"
    finetune = ["transfer=finetune", "transfer.epochs=1", "transfer.min_steps=2"]
    for words in (["transfer=knn,linear", checkpoints], [*finetune, checkpoints]):
        done = inside("finetune.py", "-m", *words, *TASK, "outputs=own", cwd=texts)
        assert done.returncode == 0, done.stdout
    records = [read_result(path) for path in (texts / "own").rglob("result.json")]
    assert len(records) == 3 * 3
    found = {(record.objective, record.transfer["protocol"]): record.metrics for record in records}
    assert found["skip_gram", "linear"]["accuracy"] > 0.6  # half the words decide, whatever their vectors
    assert found["bidirectional_lm", "linear"]["readout"] in {"pooled", "layer 0 mean", "layer 1 mean", "layer 1 ends"}
    done = inside("finetune.py", "checkpoint=none", "model=word_vectors", "transfer=knn", *TASK, "outputs=own", cwd=texts)
    assert "knn of random" in done.stdout


def test_pairs_of_texts_from_files_and_what_makes_none(texts):
    words = ["objective=mlm", "objective.next_sentence=true", *TINY, *SMALL]
    done = inside("train.py", *words, *CORPUS, "trainer.workers=1", "hydra.run.dir=pairs", cwd=texts)
    assert done.returncode == 0, done.stdout
    result = read_result(texts / "pairs" / "result.json")
    assert result.metrics["first_loss"] > 6  # log 400 + log 2
    assert result.parameters["total"] > result.parameters["encoder"] + 32 * 32
    one = ["datamodule=text_files", "datamodule.files=corpus/00.txt", "datamodule.block_length=16"]
    line = error_line(inside("train.py", *words, *one, cwd=texts))
    assert "needs text of two documents or more" in line
    line = error_line(inside("train.py", *words, *TASK, "datamodule.tokenizer.vocab_size=400", cwd=texts))
    assert "is a labelled task" in line


def test_the_embedded_bible_its_genres_and_the_supervised_reference(texts):
    done = inside("train.py", "objective=supervised_text", *TINY, *SMALL, "hydra.run.dir=genre", cwd=texts)
    assert done.returncode == 0, done.stdout
    assert "kjv" in done.stdout
    done = inside("train.py", "objective=mlm", *TINY, *SMALL, "hydra.run.dir=bible", cwd=texts)
    assert done.returncode == 0, done.stdout
    assert "val_knn_accuracy" in read_result(texts / "bible" / "result.json").metrics
    done = inside("finetune.py", "checkpoint=bible", "transfer=knn", "label_fraction=0.02", cwd=texts)
    assert done.returncode == 0, done.stdout
    assert read_result(next((texts / "outputs").rglob("knn/*/result.json"))).transfer["num_test"] == 5382


@pytest.mark.parametrize(
    ("objective", "models"),
    [
        ("mlm", "bert_tiny,bert_mini"),
        pytest.param("mlm", "bert_small,bert_base,bert_large,modernbert_base", marks=pytest.mark.long),
        ("causal_lm", "gpt_mini,llama_mini"),
        pytest.param("causal_lm", "gpt2", marks=pytest.mark.long),
        ("span_corruption", "t5_mini"),
        pytest.param("span_corruption", "t5_small", marks=pytest.mark.long),
    ],
)
def test_every_model_runs(texts, objective, models, tmp_path):
    done = inside(
        "train.py", "-m", f"objective={objective}", f"model={models}", "model.depth=1", *CORPUS, TINY[-1], *SMALL,
        f"hydra.sweep.dir={tmp_path}", cwd=texts,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert len(list(tmp_path.rglob("encoder.json"))) == len(models.split(","))


def test_a_hugging_face_folder_is_continued_with_its_own_tokenizer(sweep, texts):
    done = inside(
        "train.py", "objective=mlm", "model=hf", "model.name=sweep/mlm/encoder", *CORPUS, *SMALL,
        "datamodule.tokenizer.path=sweep/mlm", "optimizer.base_lr=1e-12", "hydra.run.dir=continued", cwd=texts,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    before, after = (load_encoder(folder).state_dict() for folder in (sweep / "mlm", texts / "continued"))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        ("train.py", ["objective=mlm", "model=vit_t"], "objective=mlm is for text, model=vit_t for image"),
        ("train.py", ["objective=mae", "datamodule=kjv"], "objective=mae is for image, datamodule=kjv for text"),
        ("train.py", ["objective=causal_lm", "model=bert_mini", *CORPUS], "needs a model with causal attention.*gpt_mini"),
        ("train.py", ["objective=mlm", "model=gpt_mini", *CORPUS], "needs a model with bidirectional attention.*bert_mini"),
        ("train.py", ["objective=span_corruption", "model=bert_mini", *CORPUS], "encoder-decoder.*t5_mini"),
        ("train.py", ["objective=rtd", "model=t5_mini", *CORPUS], "generator.*bert_mini"),
        ("train.py", ["objective=span_corruption", "datamodule.num_sentinels=2", *CORPUS], "datamodule.num_sentinels=8"),
        ("train.py", ["objective=mlm", "objective.faithful=albert", *CORPUS], "no original; .*bert, roberta"),
        ("train.py", ["objective=supervised_text", *CORPUS], "needs labels"),
        ("train.py", ["objective=skip_gram", "model=bert_mini", *CORPUS], "one vector for each token.*fit: word_vectors"),
        ("train.py", ["objective=bidirectional_lm", "model=gpt_mini", *CORPUS], "each direction.*fit: bilstm"),
        ("train.py", ["objective=permutation_lm", "model=t5_mini", *CORPUS], "two tokens at one position.*bert_mini"),
        ("train.py", ["objective=cbow", "datamodule=text_classification", "datamodule.root=task"], "'task' is a labelled task"),
        ("train.py", ["objective=mlm", "model.pool=max", *CORPUS], "no model.pool 'max'; .*mean"),
        ("train.py", ["objective=mlm", *CORPUS, "datamodule.files=nothing/*.txt"], "nothing/"),
        ("finetune.py", ["checkpoint=sweep/mlm"], "has no labels"),
        ("finetune.py", ["checkpoint=sweep/mlm", "datamodule=emoji"], "is for text, the data for image"),
        ("finetune.py", ["checkpoint=sweep/mlm", *TASK, "datamodule.label=mood"], "mood.*text"),
    ],
)
def test_one_line_says_what_is_wrong(here, sweep, texts, script, words, expected):
    line = error_line(here(script, *words, cwd=texts))
    assert re.search(expected, line), line
    assert len(line) < 700


def test_everything_in_conf_has_a_test():
    image = {"vit_t", "vit_s", "vit_b", "vit_l", "resnet18", "resnet50", "timm", "pixels", "clip_vit_b"}
    text = {"bert_tiny", "bert_mini", "bert_small", "bert_base", "bert_large", "modernbert_base", "gpt_mini", "gpt2"}
    text |= {"llama_mini", "t5_mini", "t5_small", "hf", "clip_text", "modernbert_mini", "word_vectors", "bilstm"}
    assert choices("model") == image | text
    text_data = {"kjv", "text_files", "text_shards", "text_classification", "huggingface", "glue"}
    image_data = {"emoji", "image_folder", "image_shards", *torchvision_sets.KNOWN}
    image_text_data = {"emoji_captions", "pairs", "webdataset"}
    assert choices("datamodule") == image_data | text_data | image_text_data
    for kind, names in (("text", text_data), ("image", image_data), ("image_text", image_text_data)):
        assert {modality("datamodule", name) for name in names} == {kind}


def test_text_does_not_wait_for_the_libraries_of_pictures(texts, tmp_path):
    words = ["objective=mlm", *TINY, "datamodule=text_files", f"datamodule.files={texts}/corpus/*.txt", *SMALL]
    program = f"""
import atexit, runpy, sys
atexit.register(lambda: print("imported", [name for name in ("timm", "sklearn") if name in sys.modules]))
sys.path.insert(0, {str(ROOT)!r})
sys.argv = ["train.py", *{words}]
runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "imported []" in done.stdout
