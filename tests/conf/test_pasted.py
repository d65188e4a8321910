"""What is printed to be typed again: a shell and Hydra read back what was meant, wherever the command works by now."""

import os
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from conf import CONF
from conf.pasted import command_line, from_start, start_here
from conf.words import quoted, readable

FOLDERS = [
    "runs/a",
    "my runs (2)",
    "ü/è",
    "it's",
    'say "a"',
    "a,b",
    "a=b",
    "{a}",
    "$HOME",
    "[x]",
    "7",
    "back\\slash",
    "a\\",
]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_comes_back_from_shell_and_hydra(folder):
    python, script, word = shlex.split(command_line("finetune.py", checkpoint=Path(folder)))
    assert (python, os.path.realpath(script)) == ("python", str(CONF.parent / "finetune.py"))
    (word,) = readable([quoted(word)], script)
    assert OverridesParser.create().parse_override(word).value() == folder


@pytest.mark.parametrize("value", ["/my pics ü", "a (b)", "a=b", "it's (a)", 'the "a" ü'])
def test_a_value_that_hydra_refuses_is_put_in_quotes(value):
    (word,) = readable([f"datamodule.root={value}"], "train.py")
    assert OverridesParser.create().parse_override(word).value() == value


@pytest.mark.parametrize(
    "word", ["seed=1,2", "objective.crop_scale=[0.2,1]", "x=choice(1,2)", "root='a b'", "settings={all:{a:1}}"]
)
def test_what_hydra_reads_stays_as_it_is(word):
    assert readable([word], "train.py") == [word]


def test_values_of_a_sweep_are_quoted_one_by_one():
    assert readable(["-m", "datamodule.root=/ü,/b"], "train.py") == ["-m", "datamodule.root='/ü','/b'"]


def test_paths_are_told_as_from_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start_here()
    (tmp_path / "outputs" / "run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "outputs" / "run")  # as hydra.job.chdir=true does
    assert from_start(".") == Path("outputs/run")
    assert command_line("train.py", resume=Path(".")).endswith("train.py resume=outputs/run")
    monkeypatch.chdir(CONF.parent)
    start_here()
    assert command_line("train.py", resume=Path("run")) == "python train.py resume=run"
