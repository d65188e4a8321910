"""What is loaded cannot run code, and what a file says cannot reach outside of it."""

import ast
import io
import math
import struct
import zipfile
import zlib
from typing import Annotated, Any

import PIL.Image
import pytest
import torch
from annotated_types import Ge, Gt, Interval, MinLen
from conftest import ROOT, error_line

from conf import build, choices_of, read_choice
from conf.targets import OURS, check_node, class_at, fits
from datamodules.image_folder import ImageFolder
from errors import BadInput

SOURCES = [
    path
    for folder in (*OURS, "plans", "conf", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
] + sorted(ROOT.glob("*.py"))  # fmt: skip
NEVER = {  # calls by which data would become code, or write where they like
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler",
    "dill.load", "dill.loads", "joblib.load", "marshal.load", "marshal.loads", "shelve.open", "pandas.read_pickle",
    "pd.read_pickle", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "torch.jit.load", "torch.hub.load",
    "torch.package.PackageImporter",
}  # fmt: skip
EXTRACTING = {"extractall", "extract", "unpack_archive"}


def name_of(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe(call: ast.Call) -> str | None:
    """Why a call is not allowed here, or None."""
    name, settings = name_of(call.func), {keyword.arg: keyword.value for keyword in call.keywords}

    def says(key: str, value: object) -> bool:
        return isinstance(settings.get(key), ast.Constant) and settings[key].value is value

    if name == "yaml.load" and len(call.args) == 2 and name_of(call.args[1]) == "SafeLoader":
        return None
    if name in NEVER:
        return name
    if isinstance(call.func, ast.Attribute) and call.func.attr in EXTRACTING:
        return f"{name}: members can have any path"
    if name in ("torch.load", "load_from_checkpoint") and not says("weights_only", True):
        return f"{name} without weights_only=True"
    if name.rpartition(".")[2] == "fit" and "ckpt_path" in settings and not says("weights_only", True):
        return f"{name} without weights_only=True"
    for key in ("allow_pickle", "trust_remote_code", "shell"):
        if key in settings and not says(key, False):
            return f"{name} with {key}"
    return None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_is_read_can_run_code(path):
    found = [
        f"line {node.lineno}: {why}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and (why := unsafe(node))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    ["torch.load(path)", "torch.load(path, weights_only=False)", "np.load(f, allow_pickle=True)", "yaml.load(text, Loader)",
     "pickle.loads(raw)", "archive.extractall()", "trainer.fit(m, ckpt_path=p)", "subprocess.run(line, shell=True)",
     "Auto.from_pretrained(name, trust_remote_code=remote)"],
)  # fmt: skip
def test_the_audit_finds_what_it_looks_for(line):
    assert unsafe(ast.parse(line).body[0].value) is not None


@pytest.mark.parametrize(
    "target",
    ["os.system", "subprocess.Popen", "builtins.eval", "torch.os.system", "torch.serialization.os.system", "torch.hub.load",
     "torch.load", "objectives.mae.torch.load", "pathlib.Path", "objectives.mae.Path", "datamodules.files.zipfile.ZipFile",
     "objectives.mae.nothing", "objectives.nothing.Mae", "hydra.utils.call", "", ".", "..x", 3, None, ["torch.optim.AdamW"]],
)  # fmt: skip
def test_a_configuration_names_known_classes_only(target):
    for node in ({"_target_": target}, {"_target_": "training.optimization.Optimization", "algorithm": {"_target_": target}}):
        with pytest.raises(BadInput, match="_target_") as refused:
            build(node)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("group", ["objective", "model", "datamodule", "optimizer", "transfer"])
def test_every_choice_names_one(group):
    for choice in choices_of(group):
        assert isinstance(class_at(read_choice(group, choice)["_target_"]), type)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ([1, 2.5, 3], tuple[float, ...], True),
        ([], tuple[float, ...], True),
        ([1, "a"], tuple[float, ...], False),
        ([1, 2], tuple[float, float], True),
        ([1, 2, 3], tuple[float, float], False),
        ("ab", tuple[str, ...], False),
        ([1, "a"], tuple, True),
        ([["a"], ["b", "c"]], list[list[str]], True),
        (True, int, False),
        (2, float, True),
        (None, float | None, True),
        ({"a": 1}, dict[str, int], True),
        ({"a": "b"}, dict[str, int], False),
        (0, Annotated[float, Gt(0)], False),
        (0, Annotated[float, Interval(ge=0, lt=1)], True),
        (1, Annotated[float, Interval(ge=0, lt=1)], False),
        (1.5, Annotated[int, Ge(1)], False),
        (None, Annotated[int, Ge(1)] | None, True),
        ([], Annotated[tuple[float, ...], MinLen(1)], False),
        ([0.5, 0], tuple[Annotated[float, Gt(0)], ...], False),
        (math.inf, float, False),
        (math.nan, str | None, False),
        ([[math.nan]], Any, False),
    ],
)
def test_what_fits_a_type(value, hint, expected):
    assert fits(value, hint) == expected


@pytest.mark.parametrize("node", [{}, {"depth": 3}, [], None, "mae"])
def test_settings_without_a_target_are_refused(node):
    with pytest.raises(BadInput, match="without a _target_"):
        build(node) if isinstance(node, dict) else check_node(node)


def test_a_foreign_target_is_refused_on_the_command_line(here, pictures):
    line = error_line(here("train.py", "objective=mae", "+objective.decoder_width._target_=os.getcwd"))
    assert "_target_" in line
    line = error_line(here("train.py", "optimizer.algorithm._target_=torch.os.system"))
    assert "_target_ 'torch.os.system' is refused" in line or "does not exist" in line


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("objective.mask_ratio=most", "objective.mask_ratio must be a number above 0 and below 1, not 'most'"),
        ("objective.decoder_depth=2.5", "objective.decoder_depth must be a whole number of 1 or more or null, not 2.5"),
        ("objective.crop_scale=[0.2]", "objective.crop_scale must be a list of 2"),
        ("objective.normalise_target=1", "objective.normalise_target must be true or false, not 1"),
        ("optimizer.warmup=yes_please", "optimizer.warmup must be a number from 0 to 1"),
        ("model.depth=deep", "model.depth must be a whole number of 1 or more or null, not 'deep'"),
        ("datamodule.batch_size=8.5", "datamodule.batch_size must be a whole number of 1 or more, not 8.5"),
        ("optimizer.algorithm.betas=[0.9]", "AdamW|betas|unpack|Optimization"),
        ("objective.decoder_heads=7", "MaskedAutoencoder cannot be built with these settings"),
    ],
)
def test_settings_have_the_types_that_they_are_for(here, word, expected):
    import re

    line = error_line(here("train.py", "objective=mae", "budget.steps=2", "monitor.times=0", word))
    assert re.search(expected, line), line


@pytest.mark.parametrize(
    ("value", "right"), [([1e-4, 1, 2.5], True), ([], True), (["a"], False), ([1, None], False), (1.0, False)]
)
def test_lists_of_any_length_hold_what_they_are_for(value, right):
    assert fits(value, tuple[float, ...]) == right


def bomb(side: int) -> bytes:
    """A valid PNG of side x side black pixels, in a few hundred kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer, row = zlib.compressobj(9), bytes(1 + side // 8)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_picture_that_would_fill_the_memory_is_refused_and_counted(pictures, tmp_path, caplog):
    import resource
    import shutil

    shutil.copytree(pictures, tmp_path / "pictures")
    raw = bomb(12_000)  # 144 megapixels, 432 MB as RGB
    assert len(raw) < 100_000
    (tmp_path / "pictures" / "train" / "red" / "bomb.png").write_bytes(raw)
    data = ImageFolder(str(tmp_path / "pictures"), image_size=32, batch_size=8, val_fraction=0.25)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    corrupt = sum(int(batch["corrupt"]) for batch in data.train_loader(None, 0, data.spec.num_train // 8 + 1))
    corrupt += data.splits["val"].num - sum(len(batch["index"]) for batch in data.evaluation_loader("val"))
    assert corrupt == 1
    assert "too large to be decoded" in caplog.text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_names_in_an_archive_reach_nothing_outside_of_it(tmp_path):
    secret, raw = tmp_path / "secret.png", io.BytesIO()
    PIL.Image.new("RGB", (16, 16), (255, 255, 255)).save(secret)
    PIL.Image.new("RGB", (16, 16), (0, 0, 0)).save(raw, "PNG")
    archive = tmp_path / "data" / "pictures.zip"
    archive.parent.mkdir()
    link = zipfile.ZipInfo("a/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "w") as file:
        for name in (
            "../secret.png",
            str(secret),
            "a/../../secret.png",
            "a/1.png",
            *(f"{place}/{number}.png" for place in "ab" for number in range(2, 6)),
        ):
            file.writestr(name, raw.getvalue())
        file.writestr(link, str(secret))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    data = ImageFolder(str(archive), batch_size=2, val_fraction=0.3)
    for split in data.splits:
        for batch in data.evaluation_loader(split):
            assert not batch["views"].any()  # black, as in the archive; what the names and the link point to is white
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_no_checkpoint_of_ours_needs_more_than_plain_containers(tmp_path):
    from training.checkpoint_files import write_file

    write_file({"a": [1, 2.0, "x", None, True, (3,)], "b": {"c": torch.ones(3)}}, tmp_path / "plain.ckpt")
    assert torch.load(tmp_path / "plain.ckpt", weights_only=True)["a"] == [1, 2.0, "x", None, True, (3,)]
