"""Continued pre-training, really run: model.init, replay, and what the report makes of it."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import timm
import torch
import yaml
from conftest import error_line, inside
from made_runs import words_for
from safetensors.torch import load_file

from conf import build, read_choice
from conf.composition import compose_settings
from conf.recall import train_command
from errors import BadInput
from reports.result import read_result
from reports.table import collect
from training.checkpoint_files import newest_checkpoint
from training.configuration import read_config
from training.continuation import Start, resolve

OBJECTIVES = ("mae", "byol", "mlm", "clip")  # pictures, with a teacher, text, and two towers
WEIGHTS = {"mlm": "encoder/model.safetensors", "clip": "image_encoder.safetensors"}
SPEED = ["trainer.accelerator=cpu", "trainer.precision=fp32"]


@pytest.fixture(scope="module", params=OBJECTIVES)
def first(request, tmp_path_factory, pictures, texts) -> tuple[str, Path, list[str]]:
    """(objective, where a run of it lies, the words that made it)."""
    cwd = tmp_path_factory.mktemp("continued")
    words = [*words_for(request.param, pictures, texts), *SPEED, "monitor.times=0"]
    done = inside("train.py", *words, "budget.steps=3", "hydra.run.dir=first", cwd=cwd)
    assert done.returncode == 0, done.stdout
    return request.param, cwd, words


def test_it_begins_where_the_other_ended_and_replays(first):
    objective, cwd, words = first
    words = [word for word in words if not word.startswith(("model.", "datamodule.tokenizer."))]
    words += ["model.init=first", "replay=0.25", "budget.steps=2", "optimizer.base_lr=1e-12", "optimizer.weight_decay=0"]
    done = inside("train.py", *words, "hydra.run.dir=second", cwd=cwd)
    assert done.returncode == 0, done.stdout
    assert "with encoder and heads of first; 25 % of every batch replayed from" in done.stdout
    before, after = (newest_checkpoint(cwd / name)[1]["state_dict"] for name in ("first", "second"))
    learned = {name: weight for name, weight in before.items() if weight.is_floating_point()}
    moved = {name for name, weight in learned.items() if not torch.allclose(after[name], weight, atol=1e-6)}
    assert {name for name in moved if "running_" not in name} == set()  # batch norms go on counting
    result = read_result(cwd / "second" / "result.json")
    model = read_config(cwd / "first")["names"]["model"]
    assert result.model.startswith(f"{model} from {objective} on ")
    assert result.model.endswith(", 25 % replayed")
    assert (result.settings["continued_from"], result.settings["replay"]) == ("first", 0.25)


def test_a_kill_does_not_make_it_begin_again(first):
    _, cwd, words = first
    words = [word for word in words if not word.startswith(("model.", "datamodule.tokenizer."))]
    words += ["model.init=first", "replay=0.25", "budget.steps=4", "trainer.checkpoint_every_steps=2"]
    for folder in ("whole", "part"):
        assert inside("train.py", *words, f"hydra.run.dir={folder}", cwd=cwd).returncode == 0
    part = cwd / "part"
    for name in ("last.ckpt", "previous.ckpt"):  # as after two steps
        assert (part / "checkpoints" / name).exists()
    (part / "checkpoints" / "previous.ckpt").replace(part / "checkpoints" / "last.ckpt")
    (part / "result.json").unlink()
    done = inside("train.py", "resume=part", *SPEED, "monitor.times=0", cwd=cwd)
    assert done.returncode == 0, done.stdout
    for path in (cwd / "whole").rglob("*.safetensors"):
        ours, expected = load_file(part / path.relative_to(cwd / "whole")), load_file(path)
        assert all(torch.equal(ours[name], weight) for name, weight in expected.items())


def test_another_objective_takes_the_encoder_alone(first):
    objective, cwd, _ = first
    config = yaml.safe_load((cwd / "first" / "config.yaml").read_text())
    other = {"mae": "simclr", "byol": "mae", "mlm": "span", "clip": "mae"}[objective]
    config["names"]["objective"], config["model"]["init"] = other, str(cwd / "first")
    start = Start.of(resolve(config))
    data = start.open_data()
    encoder = start.build_encoder(data.spec)
    weights = load_file(cwd / "first" / WEIGHTS.get(objective, "encoder.safetensors"))
    assert all(torch.equal(encoder.net.state_dict()[name], weight) for name, weight in weights.items())
    assert encoder.pretrained
    made = build(read_choice("objective", other), encoder=encoder, spec=data.spec)
    assert not start.load_heads(made)
    assert start.described(with_heads=False) == f"with encoder of {cwd / 'first'}"


def test_what_it_left_needs_the_other_run_no_more_and_can_be_gone_on_with_in_turn(first, tmp_path):
    objective, cwd, words = first
    words = [word for word in words if not word.startswith(("model.", "datamodule.tokenizer."))]
    words += ["replay=0.25", "budget.steps=1"]
    done = inside("train.py", *words, "model.init=first", "hydra.run.dir=middle", cwd=cwd)
    assert done.returncode == 0, done.stdout
    done = inside("train.py", *words, "model.init=middle", "hydra.run.dir=last", cwd=cwd)  # its model is not the default
    assert done.returncode == 0, done.stdout
    assert read_config(cwd / "last")["model"] == read_config(cwd / "first")["model"] | {"init": "middle"}
    command = shlex.split(train_command(read_config(cwd / "last")))[2:]
    again = inside("train.py", *command, *SPEED, "monitor.times=0", "hydra.run.dir=again", cwd=cwd)
    assert again.returncode == 0, again.stdout
    assert read_config(cwd / "again")["model"] == read_config(cwd / "last")["model"]
    shutil.copytree(cwd / "last", tmp_path / "alone")
    task = [] if objective in ("mae", "byol") else ["datamodule=emoji_captions", "datamodule.skin_tones=false"]
    protocol = "retrieval" if objective == "clip" else "knn"
    done = inside(
        "finetune.py", "checkpoint=alone", f"transfer={protocol}", *task, *SPEED, "hydra.run.dir=judged", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout
    result = read_result(tmp_path / "judged" / "result.json")
    assert result.model == read_result(cwd / "last" / "result.json").model
    assert result.transfer["continued_from"] == "middle"
    assert result.transfer["built_on"] == {"from": ["middle"], "flops": None, "minutes": None}  # it is not there any more


@pytest.fixture(scope="module")
def learned(tmp_path_factory, pictures, texts) -> Path:
    """Where a run `first` of pictures lies, and one that did not come to its end."""
    cwd = tmp_path_factory.mktemp("learned")
    words = [*words_for("mae", pictures, texts), *SPEED, "monitor.times=0", "budget.steps=1"]
    assert inside("train.py", *words, "hydra.run.dir=first", cwd=cwd).returncode == 0
    (cwd / "unfinished").mkdir()
    (cwd / "unfinished" / "config.yaml").write_text((cwd / "first" / "config.yaml").read_text())
    return cwd


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("+model.settings.qkv_bias=false", "model.settings.qkv_bias is True"),
        ("++model.settings.init_values=0.1", "model.settings.init_values is None"),
        ("~model.pool", "model.pool is avg"),
        ("+model.settings.qkv_bias=true", None),
        ("model.pool=avg", None),
    ],
)
def test_no_word_about_the_model_is_dropped(word, told, tmp_path):
    names = {"objective": "mae", "model": "vit_t", "datamodule": "emoji"}
    words = ["objective=mae", "datamodule=emoji"]
    before = compose_settings("train", [*words, "+model.settings.qkv_bias=true"])[0] | {"names": names}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(before))
    words = [*words, f"model.init={tmp_path}", word]
    settings = compose_settings("train", words)[0] | {"names": names}
    if told is None:
        assert resolve(settings, tuple(words))["model"] == before["model"] | {"init": str(tmp_path)}
    else:
        with pytest.raises(BadInput, match=f"{re.escape(word)} contradicts model.init={tmp_path}, which says that {told}"):
            resolve(settings, tuple(words))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["replay=0.5"], "replay=0.5 replays the data of the run in model.init=<run folder>, and none is given"),
        (["model.init=first", "replay=1"], "replay=1 must be a share of every batch, from 0 to below 1"),
        (["model.init=nowhere"], "'nowhere' is not a run folder: it holds no config.yaml"),
        (["model.init=first", "model=resnet18"], "model=resnet18 contradicts model.init=first, which says that model is vit_t"),
        (["model.init=first", "model.depth=7"], "model.depth=7 contradicts model.init=first, which says that model.depth is 1"),
        (["model.init=first", "objective=mlm", "datamodule=kjv"], "objective=mlm is for text, model=vit_t for image"),
        (["model.init=first", "objective=supervised", "replay=0.1"], "mixes data whose labels mean other things"),
        (["model.init=first", "replay=0.01", "datamodule.batch_size=8"], "replay=0.01 of .*batch_size=8 is 0 samples"),
        (["model.init=unfinished"], "'unfinished' holds no encoder.json; a finished run has it"),
    ],
)
def test_what_cannot_be_gone_on_from_is_said(learned, words, reason):
    done = inside("train.py", "budget.steps=1", "monitor.times=0", *SPEED, *words, cwd=learned)
    assert re.search(reason, error_line(done))


def test_the_report_says_what_was_gained_and_lost(tmp_path, pictures, texts):
    cwd = tmp_path
    words = ["monitor.times=0", "budget.steps=2", *SPEED]
    pictured = words_for("mae", pictures, texts)
    for seed in (0, 1):
        old, new = f"hydra.run.dir=outputs/old_{seed}", f"hydra.run.dir=outputs/new_{seed}"
        assert inside("train.py", *pictured, *words, f"seed={seed}", old, cwd=cwd).returncode == 0
        on_new = [f"model.init=outputs/old_{seed}", "replay=0.5", "datamodule.batch_size=8", f"seed={seed}"]
        assert inside("train.py", *words, "objective=mae", *on_new, new, cwd=cwd).returncode == 0
        tasks = [
            ["datamodule=image_folder", f"datamodule.root={pictures}"],
            ["datamodule=emoji", "datamodule.skin_tones=false"],
        ]
        for task in tasks:
            for run in ("old", "new"):
                done = inside("finetune.py", f"checkpoint=outputs/{run}_{seed}", *task, *SPEED, cwd=cwd)
                assert done.returncode == 0, done.stdout
    results = {(r.model, r.transfer["data"], r.seed): r.metrics["accuracy"] for r in collect(cwd / "outputs")[0]}
    done = inside("compare.py", "report=outputs", cwd=cwd)
    assert done.returncode == 0, done.stdout
    said = " ".join(done.stdout.split())
    name = "vit_t from mae on image_folder, 50 % replayed"
    for task, which in (("emoji", "the new data"), ("image_folder", "the old data")):
        changes = [results[name, task, seed] - results["vit_t", task, seed] for seed in (0, 1)]
        assert f"{name}, knn on {task}, {which}: {50 * sum(changes):+.1f} points by going on (95 % interval from" in said
    assert "Continued pre-training" in (cwd / "outputs" / "report.md").read_text()


def test_a_run_that_began_with_timms_weights_is_judged_and_gone_on_with(here, pictures, monkeypatch):
    create = timm.create_model  # without a network
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **arguments: create(name, **arguments))
    data = ["datamodule=image_folder", f"datamodule.root={pictures}", "trainer.accelerator=cpu"]
    short = ["objective=supervised", "budget.steps=1", "monitor.times=0", "datamodule.batch_size=8", *data]
    timms = ["model=resnet18", "model.pretrained=true", "+model.settings.act_layer=silu"]
    first = here("train.py", *short, *timms, "hydra.run.dir=first")
    assert first.returncode == 0, first.stdout
    found = []
    for number, checkpoint in enumerate(("first", "first/checkpoints/last.ckpt")):
        words = [f"checkpoint={checkpoint}", "transfer=knn", "transfer.k=3", f"hydra.run.dir=judged{number}", *data[2:]]
        done = here("finetune.py", *words)
        assert done.returncode == 0, done.stdout
        found.append(done.stdout.partition("accuracy")[2].partition("\n")[0])
    assert found[0] == found[1]
    second = here("train.py", *short, "model.init=first", "hydra.run.dir=second")
    assert second.returncode == 0, second.stdout
    assert "with encoder and heads of first" in second.stdout
