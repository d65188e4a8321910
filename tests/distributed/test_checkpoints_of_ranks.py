"""A run may go on with another number of ranks and another strategy: what one wrote the others read, whole or sharded."""

from pathlib import Path

import pytest
import torch
from fits import fit, settings_of, strategy
from made_runs import OBJECTIVES, words_for

from errors import BadInput
from training.checkpoint_files import newest_checkpoint, read_checkpoint

STEPS, HALF = 6, 3
RECIPE = ["optimizer.base_lr=0.02", "optimizer.clip_norm=1.0"]


@pytest.fixture(scope="module")
def words(pictures, texts) -> list[str]:
    return [*words_for("mlm", pictures, texts), *RECIPE]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    return fit(settings_of(words), tmp_path_factory.mktemp("whole"), STEPS)


def alike(found, expected) -> None:
    assert found.losses == pytest.approx(expected.losses[HALF:], rel=1e-4)
    for name, weight in found.weights.items():
        if weight.ndim > 1:
            assert (weight - expected.weights[name]).abs().max() <= 1e-3 * weight.abs().max(), name


QUICK = ("captioning", "text_to_image", "flamingo")


@pytest.mark.parametrize(
    "objective", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in OBJECTIVES]
)
def test_any_objective_goes_on_bit_for_bit(objective, pictures, texts, tmp_path):
    settings = settings_of([*words_for(objective, pictures, texts), *RECIPE])
    whole = fit(settings, tmp_path / "whole", STEPS)
    fit(settings, tmp_path / "half", STEPS, HALF)
    found = fit(settings, tmp_path / "on", STEPS, None, tmp_path / "half" / "checkpoints" / "last.ckpt", HALF)
    assert found.losses == whole.losses[HALF:]
    assert found.report == whole.report
    assert all(torch.equal(weight, found.weights[name]) for name, weight in whole.weights.items())


SHARDED = [*strategy("fsdp"), "trainer.sharded_checkpoints=true"]


@pytest.mark.parametrize("first", [strategy("ddp"), strategy("fsdp"), SHARDED], ids=["ddp", "fsdp", "sharded"])
def test_two_ranks_begin_and_one_process_goes_on(two_ranks, first, words, whole, tmp_path):
    two_ranks(fit, settings_of([*words, *first]), tmp_path, STEPS, HALF)
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert path.is_dir() == (first is SHARDED)
    alike(fit(settings_of(words), tmp_path / "on", STEPS, None, path, HALF), whole)


@pytest.mark.long
@pytest.mark.parametrize("first", [strategy("fsdp"), SHARDED], ids=["fsdp", "sharded"])
@pytest.mark.parametrize("optimizer", ["coupled_adamw", "sgd"])  # rows share moments; fused on whole weights only
def test_other_optimizers_are_saved_and_read_in_shards(two_ranks, first, optimizer, words, tmp_path):
    words = [*words, f"optimizer={optimizer}"]
    whole = fit(settings_of(words), tmp_path / "whole", STEPS)
    fit(settings_of(words), tmp_path / "half", STEPS, HALF)
    two_ranks(fit, settings_of([*words, *first]), tmp_path, STEPS, HALF)
    path = Path("checkpoints") / "last.ckpt"
    alike(fit(settings_of(words), tmp_path / "one", STEPS, None, tmp_path / path, HALF), whole)
    for begun in (tmp_path / path, tmp_path / "half" / path):
        found, _ = two_ranks(fit, settings_of([*words, *first]), tmp_path / f"{begun.parts[-3]}_on", STEPS, None, begun, HALF)
        alike(found, whole)


@pytest.mark.parametrize("second", [strategy("ddp"), strategy("fsdp")], ids=["ddp", "fsdp"])
def test_one_process_begins_and_two_ranks_go_on(two_ranks, second, words, whole, tmp_path):
    fit(settings_of(words), tmp_path, STEPS, HALF)
    path = tmp_path / "checkpoints" / "last.ckpt"
    first, _ = two_ranks(fit, settings_of([*words, *second]), tmp_path / "on", STEPS, None, path, HALF)
    alike(first, whole)


@pytest.mark.long
@pytest.mark.parametrize("ranks", [strategy("ddp"), strategy("fsdp")], ids=["ddp", "fsdp"])
def test_weights_that_the_loss_does_not_reach_keep_no_run_from_going_on(two_ranks, ranks, words, tmp_path):
    words = [*words, "model.architecture=roberta"]  # which has a pooler
    whole = fit(settings_of(words), tmp_path / "whole", STEPS)
    path = Path("checkpoints") / "last.ckpt"
    fit(settings_of(words), tmp_path / "half", STEPS, HALF)
    first, _ = two_ranks(fit, settings_of([*words, *ranks]), tmp_path / "two", STEPS, None, tmp_path / "half" / path, HALF)
    alike(first, whole)
    two_ranks(fit, settings_of([*words, *ranks]), tmp_path / "ranks", STEPS, HALF)
    alike(fit(settings_of(words), tmp_path / "one", STEPS, None, tmp_path / "ranks" / path, HALF), whole)


def test_shards_go_on_as_shards_and_a_missing_one_is_found_out(two_ranks, words, whole, tmp_path, capsys):
    two_ranks(fit, settings_of([*words, *SHARDED]), tmp_path, STEPS, HALF)
    folder = tmp_path / "checkpoints" / "last.ckpt"
    first, _ = two_ranks(fit, settings_of([*words, *SHARDED]), tmp_path / "on", STEPS, None, folder, HALF)
    alike(first, whole)
    assert {path.name for path in (tmp_path / "on" / "checkpoints").iterdir()} == {"last.ckpt"}

    part = torch.load(folder / "rank_00001.ckpt", weights_only=True)  # every file holds plain containers
    part["state_dict"] = {name: value for name, value in part["state_dict"].items() if "query" not in name}
    for break_it in (
        lambda: torch.save(part, folder / "rank_00001.ckpt"),
        lambda: (folder / "rank_00001.ckpt").write_bytes(b"cut"),
        lambda: (folder / "rank_00001.ckpt").unlink(),
    ):
        break_it()
        with pytest.raises(BadInput, match=r"rank_00001|do not belong together"):
            read_checkpoint(folder)
    (tmp_path / "on" / "checkpoints" / "last.ckpt").rename(tmp_path / "checkpoints" / "previous.ckpt")
    assert newest_checkpoint(tmp_path)[0].name == "previous.ckpt"
    assert "taking the one before it" in capsys.readouterr().out
