"""What a user can get wrong: one line that names the thing, the reason and the choices; never a traceback, never silence."""

import errno
import os
import re
import shlex
import subprocess
import sys

import PIL.Image
import pytest
import torch
from conftest import ROOT, command, error_line

TRAIN, FINETUNE, COMPARE = "train.py", "finetune.py", "compare.py"


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        (TRAIN, ["objective=maee"], "no objective 'maee'; did you mean mae?"),
        (TRAIN, ["model=vit_bb"], "no model 'vit_bb'; did you mean .*vit_b"),
        (TRAIN, ["datamodule=cifar"], "no datamodule 'cifar'; did you mean .*cifar10"),
        (TRAIN, ["budget.step=3"], "no setting 'budget.step'; did you mean steps"),
        (TRAIN, ["objective=mae", "objective.mask_ratoi=0.5"], "no setting 'objective.mask_ratoi'; did you mean mask_ratio"),
        *((TRAIN, [f"{group}=null"], f"no {group} 'null'; .*choices: ") for group in ("model", "datamodule", "optimizer")),
        (TRAIN, ["datamodule=5"], "no datamodule '5'; choices: cifar10"),
        (TRAIN, ["budget=20"], "budget must be a group of settings, not 20"),
        (TRAIN, ["monitor=0"], "monitor must be a group of settings, not 0"),
        (TRAIN, ["~budget"], "budget must be given"),
        (TRAIN, ["~objective"], "objective must be given; choices: .*mae"),
        (FINETUNE, ["trainer=null"], "no trainer 'null'; choices: auto, cpu"),
        *((script, ["+foo=1"], "there is no setting .foo.; choices: ") for script in (TRAIN, FINETUNE, COMPARE)),
        (TRAIN, ["budget.steps=2.5"], "budget.steps must be a whole number, not 2.5"),
        (TRAIN, ["resume=latest"], "resume=latest is not known, only checkpoint=latest of finetune.py"),
        (TRAIN, ["-cn", "finetune"], "no setting 'checkpoint' .--config-name names another file"),
        (TRAIN, ["plan=images_demo"], "no setting 'plan'; .* it is one of compare.py"),
        (TRAIN, ["optimizer.algorithm.betas=0.9"], "algorithm.betas must be a list of 2 such as .0.9, 0.999., not 0.9"),
        (TRAIN, ["objective=mlm", "datamodule=text_files"], "datamodule.files must be given: a glob such as .*text_files.yaml"),
        (TRAIN, ["foo"], "the word 'foo' cannot be read: settings are written key=value"),
        (TRAIN, ["datamodule=image_folder", "datamodule.root=/tmp/my (ü) {pics}"], "root='/tmp/my .ü. {pics}' does not exist"),
        (TRAIN, ["datamodule=image_folder", "datamodule.root=it's ü"], "root='it's ü' does not exist"),
        (FINETUNE, ["checkpoint=none", "datamodule.root=x"], "it goes with a choice of datamodule that has it: .*image_folder"),
        (COMPARE, ["objectives=[mae]", "datamodule.root=x"], "of the runs .* is set by 'settings={all:{datamodule.root:x}}'"),
        (TRAIN, ["seeed=3"], "no setting 'seeed'; did you mean seed"),
        (TRAIN, ["model=timm"], "model.name"),
        (TRAIN, ["datamodule=image_folder"], "datamodule.root"),
        (FINETUNE, ["transfer=knm"], "no transfer 'knm'; did you mean knn"),
        (TRAIN, ["objective=mae", "model=resnet18"], "objective=mae .*drop patches.*vit_t"),
        (TRAIN, ["budget.steps=2", "budget.epochs=1"], "exactly one budget"),
        (TRAIN, ["budget.steps=0"], "positive"),
        (TRAIN, ["budget.samples=3"], "smaller than one step"),
        (TRAIN, ["trainer.precision=fp8"], "no precision 'fp8'; did you mean fp"),
        (TRAIN, ["trainer.attention=flash"], "no attention 'flash'; .*sdpa"),
        (
            TRAIN,
            ["optimizer=coupled_adamw", "optimizer.algorithm.embedding_lr=abc"],
            "optimizer.algorithm.embedding_lr must be a finite number above 0, not 'abc'",
        ),
        (TRAIN, ["trainer.half_stream=abc"], "trainer.half_stream must be true or false, not 'abc'"),
        (TRAIN, ["trainer.accelerator=tpu"], "accelerator 'tpu' is not on this machine"),
        (TRAIN, ["datamodule.batch_size=100000"], "batch_size=100000 does not fit: 'emoji' has"),
        (TRAIN, ["datamodule.label=colour"], "not a level of the emoji; .*category, subcategory"),
        (TRAIN, ["objective=moco_v2", "objective.queue_size=1000"], "queue_size=1000 is not a multiple of .*64; nearest: 1024"),
        (TRAIN, ["objective=simclr", "datamodule.batch_size=1"], "batch_size=1 is too small for this objective; 2 or more"),
        (TRAIN, ["objective=dino", "objective.local_size=96"], "local_size=96 is larger than the pictures of 64 px"),
        (TRAIN, ["objective=byol", "objective.view_size=30"], "view_size=30 is no size .* can read; .*24, 32"),
        (
            TRAIN,
            ["objective=mae", "objective.crop_scale=[0.2,2]"],
            "crop_scale must be a list of 2, each a number above 0 and at most 1",
        ),
        (TRAIN, ["objective=mae", "objective.crop_scale=[1,0.2]"], "two rising shares"),
        (TRAIN, ["optimizer.warmup=nan"], "error: optimizer.warmup must be a number from 0 to 1, not nan"),
        (
            TRAIN,
            ["objective=clip", "objective.text_settings.width=abc"],
            "objective.text_settings.width must be a whole number of",
        ),
        (
            TRAIN,
            ["objective=clip", "objective.loss.temperature=abc"],
            "objective.loss.temperature must be a number above 0 and at",
        ),
        (TRAIN, ["+optimizer.algorithm.epz=1"], "no setting 'optimizer.algorithm.epz'; did you mean eps"),
        (
            TRAIN,
            ["datamodule.val_fraction=0.5", "datamodule.test_fraction=0.6"],
            "val_fraction=0.5 .*leave nothing to train on",
        ),
        (
            TRAIN,
            ["trainer.checkpoint_every_steps=0"],
            "trainer.checkpoint_every_steps must be a whole number of 1 or more, not 0",
        ),
        (TRAIN, ["monitor.share=nan"], "monitor.share must be a finite number of 0 or more, not nan"),
        (TRAIN, ["seed=abc"], "seed must be a whole number from 0 to 9223372036854775807, not 'abc'"),
        (TRAIN, ["optimizer.algorithm._partial_=false"], "cannot be built with these settings: .*'params'"),
        (TRAIN, ["resume=nowhere"], "'nowhere' holds no run to resume"),
        (TRAIN, ["resume=7"], "'7' holds no run to resume"),
        (TRAIN, ["resume=2026_11"], "'2026_11' holds no run to resume"),
        (TRAIN, ["model.init=7"], "'7' "),
        (FINETUNE, ["checkpoint=7"], "checkpoint='7' is neither a run folder"),
        (FINETUNE, ["-m", "checkpoint=1e3,8"], "checkpoint='1e3' is neither a run folder"),
        (COMPARE, ["report=7"], "'7' is not a folder"),
        (FINETUNE, [], "no finished run in 'outputs' yet"),
        (FINETUNE, ["checkpoint=nowhere"], "neither a run folder"),
        (FINETUNE, ["checkpoint=none", "label_fraction=0"], "label_fraction must be a number above 0 and at most 1, not 0"),
        (FINETUNE, ["checkpoint=none", "label_fraction=abc"], "label_fraction must be a number above 0 .*, not 'abc'"),
        (FINETUNE, ["checkpoint=none", "transfer.k=0"], "transfer.k must be a whole number of 1 or more, not 0"),
        (
            FINETUNE,
            ["checkpoint=none", "trainer.workers=-1"],
            "trainer.workers must be a whole number of 0 or more or auto, not -1",
        ),
        (TRAIN, ["budget.tokens=1e6"], "budget.tokens counts tokens of text, and 'emoji' has none; choices: budget.steps"),
        (TRAIN, ["budget.minutes=0"], "budget.minutes must be a positive number, not 0"),
        (TRAIN, ["budget.minutes=1e-9", "monitor.times=0", "model.depth=1"], "budget.minutes=1e-09 is smaller than one step"),
        (COMPARE, ["report=nowhere"], "not a folder"),
        (COMPARE, ["report=."], "holds no transfer results"),
        (COMPARE, [], "give one of objectives=.*, plan=.*, report="),
        (COMPARE, ["plan=images_demo", "report=."], "give one of"),
        (COMPARE, ["plan=image_demo"], "no plan 'image_demo'; did you mean images_demo"),
        (COMPARE, ["objectives=[mae]", "seeds=0"], "seeds=0 must be a number of seeds"),
        (COMPARE, ["objectives=[mae]", "seeds=[0,-1]"], r"seeds=\[0, -1\] must be a number of seeds"),
        (COMPARE, ["objectives=[mae]", "budget.steps=1", "budget.minutes=1"], "exactly one budget can be set"),
        (COMPARE, ["objectives=[mae]", "settings=5"], "settings must be a group of settings or null, not 5"),
        (FINETUNE, ["checkpoint=null"], "checkpoint must be a text, not None"),
        (COMPARE, ["objectives=[mae]", "seed=3"], "no setting 'seed'; did you mean seeds"),
        (COMPARE, ["objectives=[mae]", "launcher=slurm"], "no hydra/launcher 'slurm'; .*basic"),
        (COMPARE, ["objectives=[mae]", "settings={mae:{objective.mask:0.5}}"], "no setting 'objective.mask'"),
    ],
)
def test_one_line_says_what_is_wrong(here, script, words, expected):
    line = error_line(here(script, *words))
    assert re.search(expected, line), line
    assert len(line) < 700


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [(TRAIN, ["objective=simclt"], "did you mean simclr"), (FINETUNE, ["checkpoint=nowhere"], "neither a run folder")],
)
def test_the_same_from_a_shell(tmp_path, script, words, expected):
    assert expected in error_line(command(script, *words, cwd=tmp_path))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("optimizer.algorithm.betas=[2,3]", "AdamW refuses its settings: .*beta"),
        ("+optimizer.algorithm.foreach=true", "AdamW refuses its settings: .*foreach"),
    ],
)
def test_what_an_optimiser_refuses_takes_no_run_folder(here, tmp_path, word, expected):
    line = error_line(here(TRAIN, "model.depth=1", word, "hydra.run.dir=run"))
    assert re.search(expected, line), line
    assert not (tmp_path / "run" / "config.yaml").exists()


def is_no_folder(line: str, folder: str) -> bool:
    return f"the output folder '{folder}' cannot be made" in line and "hydra.run.dir=<folder>" in line


@pytest.mark.parametrize("script", [TRAIN, FINETUNE])
def test_a_folder_that_cannot_be_made(here, tmp_path, script, monkeypatch):
    (tmp_path / "file").touch()
    line = error_line(here(script, "hydra.run.dir=file/run"))
    assert is_no_folder(line, "file/run")
    assert "Not a directory" in line
    assert is_no_folder(error_line(here(script, "hydra.run.dir=file")), "file")
    assert is_no_folder(error_line(here(script, "-m", "seed=0,1", "hydra.sweep.dir=file/sweep")), "file/sweep")
    made = os.mkdir
    for code in (errno.EACCES, errno.EROFS):

        def refused(path, *rest, code=code, **named):
            if "locked" in str(path):
                raise OSError(code, os.strerror(code), str(path))
            made(path, *rest, **named)

        monkeypatch.setattr(os, "mkdir", refused)
        line = error_line(here(script, "hydra.run.dir=locked"))
        assert is_no_folder(line, "locked")
        assert os.strerror(code) in line


def test_a_defect_in_reading_a_file_is_no_matter_of_the_output_folder(here, monkeypatch):
    def unreadable(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "pictures")

    monkeypatch.setattr("training.ranks.check_alone", unreadable)
    with pytest.raises(PermissionError):
        here(FINETUNE, "checkpoint=none")


def test_data_that_cannot_be_used(here, tmp_path, pictures):
    empty = tmp_path / "empty"
    empty.mkdir()
    for root, expected in ((empty, "holds no pictures"), (tmp_path / "missing", "does not exist")):
        line = error_line(here(TRAIN, "datamodule=image_folder", f"datamodule.root={root}"))
        assert expected in line
    line = error_line(here(TRAIN, "datamodule=cifar10", f"datamodule.root={empty}"))
    assert "'cifar10' is not in datamodule.root=" in line
    unlabelled = f"datamodule.root={pictures / 'train' / 'red'}"
    line = error_line(here(TRAIN, "objective=supervised", "datamodule=image_folder", unlabelled, "datamodule.batch_size=4"))
    assert "needs labels" in line
    line = error_line(here(FINETUNE, "checkpoint=none", "datamodule=image_folder", unlabelled, "datamodule.batch_size=4"))
    assert "no labels" in line


def test_a_data_set_in_which_nothing_can_be_read(here, tmp_path):
    for i in range(30):
        (tmp_path / "pictures" / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / f"class{i % 2}" / f"{i}.jpg").write_bytes(b"\xff\xd8 not a picture")
    line = error_line(here(TRAIN, "datamodule=image_folder", "datamodule.root=pictures", "datamodule.batch_size=4"))
    assert "can be read" in line


def test_checkpoints_that_do_not_fit_or_are_unsafe(here, tmp_path):
    torch.save({"headstart": {}, "state_dict": PIL.Image.new("RGB", (2, 2))}, tmp_path / "object.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04 cut")
    for name, expected in (("object.ckpt", "could run code"), ("cut.ckpt", "cannot be read|refused")):
        line = error_line(here(FINETUNE, f"checkpoint={name}"))
        assert re.search(expected, line), line


def test_output_that_nobody_reads_any_more(tmp_path, pictures):
    words = ["objective=mae", "model.depth=1", "datamodule=image_folder", f"datamodule.root={pictures}", "budget.steps=3"]
    line = shlex.join([sys.executable, str(ROOT / TRAIN), *words, "datamodule.batch_size=8", "monitor.times=0"])
    done = subprocess.run(f"{line} | head -1", shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.count("\n") == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: the program that read the output has ended")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", [TRAIN, FINETUNE])
def test_what_is_refused_leaves_no_folder(here, tmp_path, script):
    error_line(here(script, "seed=-1"))
    assert [path.name for path in tmp_path.rglob("*")] == ["outputs", *(["transfer"] if script == FINETUNE else [])][:1]


@pytest.mark.parametrize("name", ["joblib", "submitit_slurm"])
def test_a_launcher_that_is_not_installed_says_what_brings_it(here, monkeypatch, name):
    from hydra.errors import MissingConfigException

    from conf.endings import ending_of

    error = MissingConfigException("", f"hydra/launcher/{name}", ["basic"])
    assert ending_of(error) == (f'hydra/launcher={name} comes with an extra: pip install "headstart[launchers]"', 2)
