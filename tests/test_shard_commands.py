"""The commands on shards, really run: brace patterns on the command line, and what can be wrong with shards."""

import io
import re
import tarfile

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import error_line, inside
from hydra.core.override_parser.overrides_parser import OverridesParser
from test_commands import SMALL

from conf import build, read_choice
from conf.command import answered
from conf.words import quoted
from errors import BadInput
from reports.result import read_result


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("datamodule.shards=../data/a-{00..04}.tar", "../data/a-{00..04}.tar"),
        ("datamodule.shards={a,b}-{0..9}.tar", "{a,b}-{0..9}.tar"),
        ("datamodule.shards='a-{00..04}.tar'", "a-{00..04}.tar"),
        ("datamodule.shards=['a-{0..4}.tar','b.tar']", ["a-{0..4}.tar", "b.tar"]),
        ("+datamodule.shards=s3://bucket/a-{0..4}.tar", "s3://bucket/a-{0..4}.tar"),
        ("trainer={precision:fp32,workers:2}", {"precision": "fp32", "workers": 2}),
        ("hydra.run.dir=${now:%H}/{a,b}", "${now:%H}/{a,b}"),
        ("hydra.run.dir=x/${now:%H-%M}", "x/${now:%H-%M}"),
        ("datamodule.root=~/my pictures", "/home/me/my pictures"),
        ("resume=~/runs/7", "/home/me/runs/7"),
        ("datamodule.shards=~/a-{0..4}.tar", "~/a-{0..4}.tar"),  # which shards are found in the home folder, too
        ("seed=1", 1),
    ],
)
def test_paths_need_no_quotes_of_hydra(word, value, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert OverridesParser.create().parse_override(quoted(word)).value() == value


class Spoilt(torch.utils.data.Dataset):
    """What a shard is that was overwritten in the middle of a run."""

    def __getitems__(self, numbers: list[int]) -> None:
        raise BadInput("'train-3.tar' changed while it was in use: the shard has become shorter")


def test_what_a_data_worker_finds_is_one_line_too(capsys):
    @answered
    def main() -> None:
        list(torch.utils.data.DataLoader(Spoilt(), batch_sampler=[[0], [1]], num_workers=1))

    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 2
    assert capsys.readouterr().err == "error: 'train-3.tar' changed while it was in use: the shard has become shorter\n"


def shard(path, members) -> None:
    with tarfile.open(path, "w") as archive:
        for name, raw in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three shards of noise with a class and a text each."""
    root = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for part in range(3):
        members = []
        for i in range(20):
            stream = io.BytesIO()
            PIL.Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, "JPEG")
            words = " ".join(rng.choice(["whale", "ship", "sea", "captain", "old"], 60)).encode()
            members += [(f"{i:03}.jpg", stream.getvalue()), (f"{i:03}.txt", words), (f"{i:03}.cls", str(i % 2).encode())]
        shard(root / f"train-{part}.tar", members)
    (root / "not.tar").write_bytes(b"no tar" * 200)
    return root


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_pictures_in_shards_are_trained_on_and_judged_by(folder):
    done = inside(
        "train.py", "objective=mae", "model.depth=1", "datamodule=image_shards", "datamodule.shards=train-{0..2}.tar",
        *SMALL, "hydra.run.dir=pictures", "trainer.workers=1", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "val_knn_accuracy" in read_result(folder / "pictures" / "result.json").metrics
    done = inside("finetune.py", "checkpoint=pictures", "transfer=linear", cwd=folder)
    assert done.returncode == 0, done.stdout


def test_text_in_shards_is_trained_on(folder):
    done = inside(
        "train.py", "objective=mlm", "model=bert_tiny", "datamodule=text_shards", "datamodule.shards=train-*.tar",
        "datamodule.block_length=32", *SMALL, "hydra.run.dir=texts", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_every_image_text_configuration_opens(folder, tmp_path):
    (tmp_path / "table.csv").write_text("path,caption\n" + "".join(f"{i}.png,number {i}\n" for i in range(12)))
    for i in range(12):
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    given = {
        "webdataset": {"shards": f"{folder}/train-{{0..2}}.tar", "batch_size": 8},
        "pairs": {"files": str(tmp_path / "table.csv"), "batch_size": 8},
        "emoji_captions": {},
    }
    for name, settings in given.items():
        data = build(read_choice("datamodule", name) | settings)
        assert (data.spec.name, data.spec.modality) == (name, "image_text")
        batch = next(iter(data.train_loader(None, 0, 1)))
        assert batch["views"].shape[:3] == (data.batch_size, 1, 3)
        assert batch["present"][:, 0].all()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("train-{1..4}.tar", r"2 of 4 shards are missing: 'train-3.tar', 'train-4.tar'"),
        ("nothing-*.tar", "matches no shard"),
        ("not.tar", "'not.tar' is not a tar"),
        ("pipe:cat train-0.tar", "would run a shell command"),
    ],
)
def test_one_line_says_what_is_wrong(folder, setting, expected):
    line = error_line(
        inside("train.py", "objective=mae", "datamodule=image_shards", f"datamodule.shards={setting}", cwd=folder)
    )
    assert re.search(expected, line), line
