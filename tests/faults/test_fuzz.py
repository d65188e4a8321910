"""Damaged pictures, tables, texts, checkpoints and configurations: each is read, skipped and counted, or refused in one line.

`make faults` damages a thousand of each kind; `make test` a few.
"""

import gzip
import io
import json
import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from forks import run
from fuzz import damaged, watch, with_other_values
from made_runs import WORDS, words_for
from made_shards import sample, tar

from conf import build
from datamodules.files import open_picture
from datamodules.samples import EvaluationView, Pictures, Samples
from datamodules.text_classification import TextClassification
from datamodules.text_files import TextFiles
from datamodules.webdataset import WebDataset
from training.accumulation import check_batch
from training.arrangement import Arrangement
from training.budget import Budget
from training.checkpoint_files import newest_checkpoint, read_checkpoint
from training.configuration import read_config
from training.continuation import Start
from training.fitting import check_fit, check_needs, face
from training.trainer import prepare_speed

MANY = [pytest.param(1000, marks=pytest.mark.long)]
SPARED = {"root", "cache", "files", "trainer", "monitor"}  # paths that are the user's; what a resumed run does not take
TOKENIZER = {"kind": "wordpiece", "vocab_size": 120, "lowercase": True, "path": None}


def said(kind: str, outcomes: dict, capsys) -> None:
    with capsys.disabled():
        print(f"\n{sum(outcomes.values())} damaged {kind}: " + ", ".join(f"{n} {what}" for what, n in outcomes.most_common()))
    assert not [what for what in outcomes if what.startswith("refused unclearly")], outcomes


def picture(kind: str) -> bytes:
    array = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kinds", [("JPEG",), ("PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM")], ids=["jpeg", "others"])
@pytest.mark.parametrize("cases", [150, *MANY])
def test_pictures(cases, kinds, tmp_path, capsys):
    whole = [picture(kind) for kind in kinds]

    def one(case: int) -> str:
        chance = random.Random(case)
        raw = damaged(chance.choice(whole), chance)
        samples = Samples(Pictures(lambda _: open_picture(io.BytesIO(raw)), 1), 3, EvaluationView(16), 0, substitute=False)
        batch = samples.__getitems__([(0, 0)])
        if not len(batch["index"]):
            return "skipped"
        assert batch["views"].shape == (1, 1, 3, 16, 16)
        return "read"

    said("pictures", watch(cases, one, tmp_path), capsys)


@pytest.mark.parametrize("cases", [20, *MANY])
def test_shards(cases, tmp_path, capsys):
    """A tar of pictures and captions, whole ones beside it; what is left of it is indexed and trained on."""
    whole, *others = (
        tar(tmp_path / f"{first}.tar", [file for number in range(first, first + 6) for file in sample(number, captions=2)])
        for first in (0, 10, 20)
    )

    def one(case: int) -> str:
        chance = random.Random(case)
        Path("shard.tar").write_bytes(damaged(whole.read_bytes(), chance))
        patterns = dict(zip(("val_shards", "test_shards"), map(str, others), strict=True))
        try:
            data = WebDataset("shard.tar", tokenizer=TOKENIZER, batch_size=2, image_size=8, cache="cache", **patterns)
            for batch in data.train_loader(None, 0, 4):
                assert batch["views"].shape == (2, 1, 3, 8, 8)
                assert batch["ids"].shape == batch["present"].shape
        finally:
            Path("shard.tar").unlink()
            shutil.rmtree("cache", ignore_errors=True)
        return "read" if data.spec.num_train == 6 else "read in part"

    said("shards", watch(cases, one, tmp_path), capsys)


def table(chance: random.Random, suffix: str) -> bytes:
    rows = [(" ".join(chance.choices(WORDS, k=6)), chance.choice(("yes", "no"))) for _ in range(20)]
    if suffix == ".jsonl":
        return "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows).encode()
    mark = "\t" if suffix == ".tsv" else ","
    return f"text{mark}label\n{chr(10).join(mark.join(row) for row in rows)}\n".encode()


@pytest.mark.parametrize("cases", [30, *MANY])
def test_tables(cases, tmp_path, capsys):
    def one(case: int) -> str:
        chance = random.Random(case)
        folder = Path(f"task_{case}")
        folder.mkdir()
        suffix = chance.choice((".tsv", ".tsv", ".csv", ".jsonl"))
        for split in ("train", "val", "test"):
            (folder / f"{split}{suffix}").write_bytes(damaged(table(chance, suffix), chance))
        if chance.random() < 0.2:
            with zipfile.ZipFile("task.zip", "w") as archive:
                for path in folder.iterdir():
                    archive.write(path, path.name)
            Path("task.zip").write_bytes(damaged(Path("task.zip").read_bytes(), chance))
        root = "task.zip" if Path("task.zip").exists() else str(folder)
        try:
            data = TextClassification(root, tokenizer=TOKENIZER, batch_size=2, cache="cache")
            for split in data.splits:
                for batch in data.evaluation_loader(split):
                    assert batch["ids"].shape[0] == len(batch["label"])
        finally:
            shutil.rmtree(folder)
            Path("task.zip").unlink(missing_ok=True)
            shutil.rmtree("cache", ignore_errors=True)
        return "read"

    said("tables", watch(cases, one, tmp_path), capsys)


@pytest.mark.parametrize("cases", [20, *MANY])
def test_running_text(cases, tmp_path, capsys):
    def one(case: int) -> str:
        chance = random.Random(case)
        text = " ".join(chance.choices(WORDS, k=400))
        suffix = chance.choice((".txt", ".txt.gz", ".jsonl", ".zip"))
        raw = text.encode()
        if suffix == ".jsonl":
            raw = "\n".join(json.dumps({"text": text[start : start + 200]}) for start in range(0, len(text), 200)).encode()
        elif suffix == ".txt.gz":
            raw = gzip.compress(raw)
        elif suffix == ".zip":
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("../a.txt", text)
            raw = file.getvalue()
        Path(f"text{suffix}").write_bytes(damaged(raw, chance))
        try:
            data = TextFiles(
                f"text{suffix}", tokenizer=TOKENIZER, block_length=8, batch_size=2, cache="cache", val_fraction=0.2
            )
            for batch in data.train_loader(None, 0, 3):
                assert batch["ids"].shape == (2, 8)
        finally:
            Path(f"text{suffix}").unlink()
            shutil.rmtree("cache", ignore_errors=True)
        return "read"

    said("texts", watch(cases, one, tmp_path), capsys)


@pytest.fixture(scope="module")
def finished(pictures, texts, tmp_path_factory) -> Path:
    """A folder with a run of four steps, saved twice."""
    cwd = tmp_path_factory.mktemp("finished")
    words = [*words_for("mlm", pictures, texts), "budget.steps=4", "trainer.checkpoint_every_steps=2", "monitor.times=0"]
    code, text = run(cwd, *words, "trainer.accelerator=cpu", "hydra.run.dir=run")
    assert code == 0, text
    return cwd / "run"


@pytest.mark.parametrize("cases", [60, *MANY])
def test_checkpoints(cases, finished, tmp_path, capsys):
    raw = (finished / "checkpoints" / "last.ckpt").read_bytes()
    whole = read_checkpoint(finished / "checkpoints" / "last.ckpt")

    def one(case: int) -> str:
        chance = random.Random(case)
        Path("checkpoints").mkdir(exist_ok=True)
        path = Path("checkpoints/last.ckpt")
        if chance.random() < 0.5:
            path.write_bytes(damaged(raw, chance))
            read = newest_checkpoint(Path("."))[1]
            assert equal(read, whole), "damage that was not found out"
            return "read, unharmed"
        torch.save(with_other_values(whole, chance), path)
        newest_checkpoint(Path("."))
        return "read, with other values"

    said("checkpoints", watch(cases, one, tmp_path), capsys)


def equal(ours: object, theirs: object) -> bool:
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and ours.keys() == theirs.keys() and all(equal(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, torch.Tensor):
        return isinstance(ours, torch.Tensor) and torch.equal(ours, theirs)
    if isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return ours == theirs


@pytest.mark.parametrize("cases", [4, pytest.param(60, marks=pytest.mark.long)])
def test_runs_go_on_or_say_why_not(cases, finished, tmp_path, capsys):
    """The whole command, on checkpoints and settings in which something else stands than it should."""
    point = read_checkpoint(finished / "checkpoints" / "previous.ckpt")
    config = yaml.safe_load((finished / "config.yaml").read_text())
    outcomes: dict[str, int] = {}
    for case in range(cases):
        chance = random.Random(case)
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "checkpoints").mkdir(parents=True)
        spoiled = case % 2 == 0
        torch.save(with_other_values(point, chance) if spoiled else point, folder / "checkpoints" / "last.ckpt")
        settings = config if spoiled else with_other_values(config, chance, SPARED)
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        code, text = run(tmp_path, "resume=run", "trainer.accelerator=cpu", "monitor.times=0", seconds=120)
        assert "Traceback" not in text, f"case {case}: {text}"
        assert "left open" not in text, f"case {case}: {text}"
        assert code == 0 or text.strip().splitlines()[-1].startswith("error: "), f"case {case}: {code} {text}"
        outcomes[f"ended with {code}"] = outcomes.get(f"ended with {code}", 0) + 1
    from collections import Counter

    said("runs", Counter(outcomes), capsys)


@pytest.mark.parametrize("cases", [40, *MANY])
def test_configurations(cases, finished, pictures, texts, tmp_path, capsys):
    from conftest import ROOT

    known = [yaml.safe_load((finished / "config.yaml").read_text())]
    for objective in ("mae", "simclr"):
        known.append(_settings(words_for(objective, pictures, texts), objective))
    assert (ROOT / "conf").is_dir()

    def one(case: int) -> str:
        chance = random.Random(case)
        config = chance.choice(known)
        if chance.random() < 0.3:
            Path("config.yaml").write_bytes(damaged(yaml.safe_dump(config).encode(), chance))
        else:
            Path("config.yaml").write_text(yaml.safe_dump(with_other_values(config, chance, SPARED)))
        return opened(read_config(Path(".")), known[0]["trainer"])

    said("configurations", watch(cases, one, tmp_path), capsys)


def _settings(words: list[str], objective: str) -> dict:
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "distributed"))
    from fits import settings_of

    names = {"objective": objective, "model": "vit_t", "datamodule": "image_folder"}
    return settings_of(words) | {"names": names}


def opened(config: dict, trainer: dict) -> str:
    """What train.py does before its first step; the node `trainer` is the new command's."""
    config = config | {"trainer": trainer}
    check_fit(config["names"])
    torch.manual_seed(config["seed"])
    start = Start.of(config)
    data = face(start.names, start.open_data())
    encoder = start.build_encoder(data.spec)
    check_needs(config["names"], encoder, data.spec)
    objective = build(config["objective"], encoder=encoder, spec=data.spec)
    build(config["optimizer"]).optimizer(objective, data.batch_size)
    resolved = prepare_speed(objective, config["trainer"])
    budget = Budget.of(config["budget"], config["trial_flops"])
    check_batch(data.batch_size, 1, config["trainer"]["accumulate"])
    budget.course(data.batch_size, data.spec, 1e6)
    Arrangement.of(config["trainer"], resolved)
    return "built"
