"""compare.py, really run: what is missing is made, what is there is used again, and the report says what came of it."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, command, error_line, inside

from plans import running
from plans.words import literal
from reports.result import read_result

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
    """The words after compare.py, of a comparison with two steps a run."""
    words = {"all": SMALL, "image_folder": [f"datamodule.root={pictures}"]}
    return [
        "objectives=[mae]", "model=vit_t", "datamodule=image_folder", "seeds=1", "budget.steps=2", "transfer=[knn]",
        f"settings={literal(words)}", "folder=plan",
    ]  # fmt: skip


def records(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}


def test_a_plan_runs_what_is_missing_and_repeats_nothing(here, tmp_path, plan, pictures, started):
    mae = ["objective=mae", "model=vit_t", "datamodule=image_folder", f"datamodule.root={pictures}", "budget.steps=2", *SMALL]
    assert here("train.py", "-m", *mae, "seed=0,1", "hydra.sweep.dir=plan/by_hand").returncode == 0
    done = here("compare.py", *plan, "label_fractions=[0.5,1.0]", "transfer=[knn,linear]")
    assert done.returncode == 0, done.stdout
    made = records(tmp_path / "plan")
    assert len(made) == 2 + 1 + 3 * 4  # by hand, supervised; every encoder by two protocols at two label fractions
    scripts = [Path(words[0]).name for words in started]
    assert scripts == ["finetune.py", "train.py", "finetune.py", "finetune.py"]
    assert all(row in done.stdout for row in ("random", "supervised", "mae"))
    assert "no difference can be told; one seed shows no spread" in done.stdout
    assert "report:   plan/report.html" in done.stdout

    started.clear()
    assert here("compare.py", *plan).returncode == 0
    assert started == []
    cut = next((tmp_path / "plan").rglob("knn_1.0/result.json"))
    cut.write_text(cut.read_text()[:100])
    report = here("compare.py", "report=plan")
    assert report.returncode == 0, report.stdout
    assert re.search("left out: .*knn_1.0/result.json' cannot be read", report.stdout)
    assert here("compare.py", *plan).returncode == 0
    assert len(started) == 1
    whole = cut.read_text()
    cut.write_text(re.sub(r'"accuracy": [\d.]+', '"accuracy": NaN', whole))
    report = here("compare.py", *plan)
    assert report.returncode == 0, report.stdout
    assert re.search("left out: .*knn_1.0/result.json' cannot be compared: it has no finite metrics.accuracy", report.stdout)
    cut.write_text(whole)
    made = records(tmp_path / "plan")

    started.clear()
    more = here("compare.py", *plan, "seeds=[1]")
    assert more.returncode == 0, more.stdout
    assert [Path(words[0]).name for words in started] == scripts
    now = records(tmp_path / "plan")
    assert {path: now[path] for path in made} == made
    assert len(now) == len(made) + 1 + 3
    transfer = [read_result(path).transfer for path in set(now) - set(made)]
    assert {record["seed"] for record in transfer if record} == {1}  # of labels and heads as of pre-training: pairs


def test_what_fails_is_listed_and_the_rest_is_compared(here, tmp_path, plan, started):
    (tmp_path / "plan" / "other").mkdir(parents=True)
    (tmp_path / "plan" / "other" / "result.json").write_text('{"schema": 99}')
    broken = [*plan, "settings.mae={objective.mask_ratio:0.999}", "settings.knn={transfer.k:60}", "label_fractions=[0.5,1.0]"]
    done = here("compare.py", *broken)
    assert "5 of 8 jobs failed; the same command tries them again" in error_line(done)
    assert re.search(r"mae .* failed: error: .*mask_ratio=0.999 leaves 0 of 64 .* \(log: plan/mae-\S+/log.txt\)", done.stdout)
    assert re.search(r"knn @ 0.5 of random .* failed: error: transfer.k=60 .* 36 labelled samples", done.stdout)
    assert re.search("knn of mae .* failed: needs mae .*, which failed", done.stdout)
    assert "has schema 99" in done.stdout
    assert "supervised" in done.stdout.partition("test accuracy")[2]


@pytest.mark.long
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_anywhere_it_reports_the_same_as_uninterrupted(tmp_path, plan, ending):
    words = [*plan, "budget.steps=40", "settings.mae={trainer.checkpoint_every_steps:2}"]
    whole = command("compare.py", *words, "folder=whole", cwd=tmp_path, timeout=600)
    assert whole.returncode == 0, whole.stdout
    for place in ("finetune.py", "objective=mae", "step 8 of 40", "resumed at step"):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "compare.py"), *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + 300
        logs = (tmp_path / "plan").glob
        while not any(place in path.read_text() for path in (*logs("mae*/log.txt"), *logs("transfer/**/*.log"))):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(ending)
        process.wait(timeout=120)
    last = command("compare.py", *words, cwd=tmp_path, timeout=600)
    assert last.returncode == 0, last.stdout
    assert scores(tmp_path / "plan") == scores(tmp_path / "whole")
    log = next((tmp_path / "plan").glob("mae*/log.txt")).read_text()
    assert "resumed at step" in log
    assert "stopped by SIGTERM at step" in log  # which is what Linux tells the jobs of a comparison that is gone
    assert log.count("step 40 of 40") == 1


def scores(folder: Path) -> dict[tuple, dict]:
    found = [read_result(path) for path in folder.rglob("result.json")]
    return {(r.kind, r.objective, r.seed, (r.transfer or {}).get("protocol")): r.metrics for r in found}
