"""compare.py, really run: what is missing is made, what is there is used again, and the report says what came of it."""

from pathlib import Path

import pytest
from conftest import inside

from plans import running
from plans.words import literal

SMALL = ["model.depth=1", "datamodule.batch_size=8", "monitor.times=0", "trainer.accelerator=cpu"]


class Ended:
    """A process that has ended already."""

    def __init__(self, returncode: int):
        self.returncode = returncode

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def started(tmp_path, monkeypatch) -> list[list[str]]:
    """Jobs run in this process, which has everything imported already; gives their command lines."""
    commands = []

    def start(words: list[str], log: Path, hands: running.Hands) -> Ended:
        commands.append(words[1:])
        done = inside(Path(words[1]).name, *words[2:], cwd=tmp_path)
        log = tmp_path / log
        log.write_text("$\n" + done.stdout)
        return Ended(done.returncode)

    monkeypatch.setattr(running, "start", start)
    monkeypatch.setattr(running, "POLL", 0)
    return commands


@pytest.fixture
def plan(tmp_path, pictures) -> list[str]:
    """A comparison of two steps a run, from a file as a user would keep it; gives the words after compare.py."""
    words = {"all": SMALL, "image_folder": [f"datamodule.root={pictures}"]}
    return [
        "objectives=[mae]", "model=vit_t", "datamodule=image_folder", "seeds=1", "budget.steps=2", "transfer=[knn,linear]",
        "label_fractions=[0.5,1.0]", f"settings={literal(words)}", "folder=plan",
    ]  # fmt: skip


def results(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}


def test_a_plan_runs_what_is_missing_and_repeats_nothing(here, tmp_path, plan, started):
    done = here("compare.py", *plan)
    assert done.returncode == 0, done.stdout
    made = results(tmp_path / "plan")
    assert len(made) == 2 + 3 * 4  # two encoders; they and a random one are judged by two protocols at two label fractions
    assert [Path(words[0]).name for words in started] == ["finetune.py", "train.py", "finetune.py", "train.py", "finetune.py"]
    assert "random" in done.stdout
    assert "report:" in done.stdout
    started.clear()
    assert here("compare.py", *plan).returncode == 0
    assert started == []
    more = here("compare.py", *plan, "seeds=[0,3]", "transfer=[knn]")
    assert more.returncode == 0, more.stdout
    assert len(started) == 5
    assert {path: made[path] for path in made} == {
        path: time for path, time in results(tmp_path / "plan").items() if path in made
    }
