"""Jobs side by side, stopped and killed, with stand-ins for train.py and finetune.py; test_compare.py has the real ones."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser
from rich.console import Console
from stand_ins import GRID, ROOT, Quiet, encoder, judged, write_stand_ins

from errors import BadInput
from plans import running
from plans.board import LiveBoard, table, timing
from plans.lock import sole_user
from plans.running import Hands, Process, Work, command, do
from reports.result import SCHEMA


@pytest.fixture(autouse=True)
def stand_ins(tmp_path, monkeypatch):
    write_stand_ins(tmp_path / "home")
    monkeypatch.setattr(running, "HOME", tmp_path / "home")
    monkeypatch.setattr(running, "POLL", 0.02)


def test_transfers_of_one_encoder_share_a_process_where_they_are_a_grid(tmp_path):
    first = encoder(tmp_path, "first")
    jobs = [first, *judged(tmp_path, first, *GRID, ("finetune", 1.0))]
    work = do(jobs, Hands(), Quiet())
    assert (work.done, work.failed) == (jobs, [])
    process = {job.label: json.loads((job.folder / "result.json").read_text())["transfer"]["process"] for job in jobs[1:]}
    assert len(set(list(process.values())[:4])) == 1
    assert len(set(process.values())) == 2


def test_a_failed_job_is_listed_with_its_last_line_and_the_others_go_on(tmp_path):
    first, second = encoder(tmp_path, "first", "broken=no room"), encoder(tmp_path, "second")
    lost, kept = judged(tmp_path, first, ("knn", 1.0)), judged(tmp_path, second, *GRID, words=("broken=knn 0.1",))
    work = do([first, *lost, second, *kept], Hands(), Quiet())
    assert work.done == [second, *kept[1:]]  # a small fraction has too few neighbours, the rest is done in a new process
    failures = {failure.job: failure for failure in work.failed}
    assert failures[first].line == "error: no room"
    assert str(failures[first]).endswith(f"(log: {first.folder / 'log.txt'})")
    assert failures[lost[0]].line == "needs first, which failed"
    assert failures[kept[0]].line == "error: no neighbours"
    jobs = [replace(second, found=True), *kept[:1], *(replace(job, found=True) for job in kept[1:])]
    jobs = [replace(job, after=jobs[0]) if job.after else job for job in jobs]
    assert [failure.job for failure in do(jobs, Hands(), Quiet()).failed] == [jobs[1]]  # tried again


def test_jobs_side_by_side_share_the_cores(tmp_path):
    jobs = [encoder(tmp_path, str(number), "steps=10") for number in range(4)]
    most = []

    class Counting:
        def show(self, work: Work) -> None:
            most.append(len(work.running))

    began = time.monotonic()
    assert len(do(jobs, Hands(slots=4), Counting()).done) == 4
    assert max(most) == 4
    assert time.monotonic() - began < 4 * 0.5 + 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert {(job.folder / "threads").read_text() for job in jobs} == {str(max(1, cores // 4))}


KILLED = """
import sys
sys.path[:0] = [ROOT, ROOT + "/tests/plans"]
from pathlib import Path
from plans import running
from plans.lock import sole_user
from stand_ins import GRID, Quiet, encoder, judged
from dataclasses import replace
running.HOME, running.POLL = Path("home"), 0.02
folder = Path("plan")
first, second = encoder(folder, "first", "steps=2"), encoder(folder, "second", "steps=40")
jobs = [first, *judged(folder, first, *GRID), second]
jobs = [replace(job, found=running.finished(job)) for job in jobs]
with sole_user(folder) as lock:
    work = running.do(jobs, running.Hands(lock=lock), Quiet())
print("all done" if not work.failed else work.failed)
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_and_started_again_it_goes_on_and_repeats_nothing(tmp_path, ending):
    words = [sys.executable, "-c", KILLED.replace("ROOT", repr(str(ROOT)))]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = tmp_path / "plan" / "second" / "log.txt"
    wait_for(lambda: log.exists() and "step 4" in log.read_text())
    process.send_signal(ending)
    out, _ = process.communicate(timeout=30)
    if ending != signal.SIGKILL:
        assert "stopped with 5 of 6 jobs done; the same command goes on" in out
        assert int((tmp_path / "plan" / "second" / "checkpoints" / "last.ckpt").read_text()) >= 4
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "plan").rglob("result.json")}
    assert len(before) == 5
    again = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert again.stdout == "all done\n", again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    text = log.read_text()
    assert text.count("resumed at step") == 1
    assert text.count("\nstep 40 ") == 1  # nobody else was there


def test_a_record_of_a_newer_version_is_never_written_over(tmp_path):
    first = encoder(tmp_path, "first")
    first.folder.mkdir()
    newer = json.dumps({"schema": SCHEMA + 1})
    (first.folder / "result.json").write_text(newer)
    work = do([first], Hands(), Quiet())
    assert "has schema" in work.failed[0].line
    assert (first.folder / "result.json").read_text() == newer


def test_a_record_that_was_cut_is_made_again(tmp_path):
    first = encoder(tmp_path, "first", "steps=4")
    do([first], Hands(), Quiet())
    (first.folder / "result.json").write_text('{"schema"')
    assert do([first], Hands(), Quiet()).done == [first]
    assert "resumed at step 4" in (first.folder / "log.txt").read_text()  # its checkpoint holds all


def test_a_run_that_saved_nothing_begins_anew(tmp_path):
    first = encoder(tmp_path, "first")
    first.folder.mkdir()
    (first.folder / "config.yaml").touch()
    assert do([first], Hands(), Quiet()).done == [first]


def test_commands_are_those_that_a_person_would_type(tmp_path):
    first = encoder(Path("plan"), "first", "objective=mae", "trainer.workers=2")
    train = ["objective=mae", "trainer.workers=2"]
    assert command([first], False, Hands())[1:] == ["seed=first", *train, "hydra.run.dir=plan/first"]
    assert command([first], True, Hands())[1:] == ["resume=plan/first", "trainer.workers=2", "hydra.run.dir=plan/first"]
    jobs = judged(Path("plan"), first, *GRID)
    grid = ["transfer=knn,linear", "label_fraction=0.1,1.0", "hydra.sweep.dir=plan/transfer/first"]
    assert command(jobs, False, Hands())[1:-1] == ["-m", "checkpoint=plan/first", *grid]
    launched = command([first], False, Hands(launcher="joblib", launcher_words=("hydra.launcher.n_jobs=2",)))
    assert get_args_parser().parse_args(launched[1:]).multirun
    where = ["hydra.sweep.dir=plan", "hydra.sweep.subdir=first"]
    assert launched[-4:] == [*where, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def test_two_comparisons_never_share_a_folder(tmp_path):
    refused = pytest.raises(BadInput, match=rf"another comparison \(process {os.getpid()}\) is at work in")
    with sole_user(tmp_path / "plan"), refused, sole_user(tmp_path / "plan"):
        pass
    with sole_user(tmp_path / "plan"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot be written"), sole_user(tmp_path / "file"):
        pass


def test_jobs_that_lost_their_comparison_are_waited_for(tmp_path, monkeypatch):
    with sole_user(tmp_path) as lock:
        orphan = subprocess.Popen(["sleep", "0.5"], pass_fds=(lock,))
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / "compare.lock").write_text(str(gone.pid))
    with sole_user(tmp_path):
        assert orphan.poll() is not None
        with subprocess.Popen(["sleep", "9"]) as other:  # a process that has nothing to do with it
            other.kill()
    monkeypatch.setattr("plans.lock.PATIENCE", 0.1)
    with sole_user(tmp_path) as lock:
        orphan = subprocess.Popen(["sleep", "9"], pass_fds=(lock,))
    (tmp_path / "compare.lock").write_text(str(gone.pid))
    with pytest.raises(BadInput, match="still at work"), sole_user(tmp_path):
        pass
    orphan.kill()
    orphan.wait()


def test_the_board_shows_what_matters(tmp_path, capsys):
    first, second = encoder(tmp_path, "first", "broken=no room"), encoder(tmp_path, "second")
    with LiveBoard(Console(width=120)) as board:
        do([first, second], Hands(), board)
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r", 0:00:\d\d", "", line) for line in lines] == [
        "[0/2] begins  first",
        "[1/2] failed  first: error: no room",
        "[1/2] begins  second",
        "[2/2] done  second",
    ]


def test_the_live_table_says_how_much_time_is_left(tmp_path):
    jobs = [encoder(tmp_path, str(number)) for number in range(9)]
    log = tmp_path / "log"
    log.write_text("$ python train.py\nstep 3 of 9  loss 1.0  1:05 left\n")
    process = Process([jobs[1]], None, log, began=time.monotonic() - 62)
    assert re.fullmatch(r"0:01:0[23], 0:01:0[45] left", timing(process))
    work = Work(jobs, done=jobs[:1], running=[process], waiting=jobs[2:])
    shown = Console(width=100, record=True, file=io.StringIO())
    shown.print(table(work))
    text = shown.export_text()
    assert "1 done (0 before), 1 running, 0 failed, 7 waiting" in text
    assert text.count("waiting") == 1 + 5


def wait_for(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
