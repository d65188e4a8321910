"""A run on shards that is killed in mid-epoch reads the rest of the epoch when it goes on, and nothing twice."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import die, run
from made_shards import words_for_shards
from same import differences

NUM, BATCH, STEPS = 24, 4, 14  # an epoch is 6 steps
SAVED, KILLED = 8, 11  # the last checkpoint, and the step that is not done any more: both in the second epoch


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    return [
        *words_for_shards(tmp_path_factory.mktemp("shards"), NUM), f"datamodule.batch_size={BATCH}", "trainer.accelerator=cpu",
        "trainer.precision=fp32", f"trainer.checkpoint_every_steps={SAVED // 2}", f"budget.steps={STEPS}", "monitor.times=0",
        "hydra.run.dir=run",
    ]  # fmt: skip


def recorded(file: Path, last_step: int | None = None) -> Callable[[], None]:
    """What happens in the command's process: each batch that is trained on is noted; with `last_step` that step kills it."""

    def prepare() -> None:
        from training.pretraining import Pretraining

        real = Pretraining.training_step

        def noted(module: Pretraining, batch: dict, *arguments: object) -> object:
            if module.course.step + 1 == last_step:
                die()
            captions = batch["ids"].flatten(1).sum(1)
            with open(file, "a") as lines:
                lines.write(json.dumps([batch[name].tolist() for name in ("epoch", "index")] + [captions.tolist()]) + "\n")
                os.fsync(lines.fileno())
            return real(module, batch, *arguments)

        Pretraining.training_step = noted

    return prepare


def batches(file: Path) -> list[list[list[int]]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_rest_of_the_epoch_and_nothing_twice(words, tmp_path):
    code, text = run(tmp_path / "whole", *words, prepare=recorded(tmp_path / "whole.jsonl"))
    assert code == 0, text
    code, text = run(tmp_path / "cut", *words, prepare=recorded(tmp_path / "first.jsonl", last_step=KILLED))
    assert code == -signal.SIGKILL, text
    speed = ["trainer.accelerator=cpu", "trainer.precision=fp32", "trainer.workers=1", "monitor.times=0"]
    code, text = run(tmp_path / "cut", "resume=run", *speed, prepare=recorded(tmp_path / "rest.jsonl"))
    assert code == 0, text
    assert f"resumed at step {SAVED}" in text
    whole, first, rest = (batches(tmp_path / f"{name}.jsonl") for name in ("whole", "first", "rest"))
    assert len(whole) == STEPS
    assert len(first) == KILLED - 1
    kept = first[:SAVED]  # what came after the checkpoint is in no weight
    assert kept + rest == whole  # captions too
    seen = Counter(pair for epochs, indices, _ in kept + rest for pair in zip(epochs, indices, strict=True))
    assert set(seen.values()) == {1}
    assert {index for epoch, index in seen if epoch == 1} == set(range(NUM))
    assert differences(tmp_path / "cut" / "run", tmp_path / "whole" / "run") == []
