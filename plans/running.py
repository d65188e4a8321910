"""Jobs in processes of their own, side by side: what is done stays, what was begun goes on, what fails is listed.

A pre-training that was interrupted is resumed from its last checkpoint; a transfer is done again. Transfers of one encoder
share a process, because starting one costs as much as a small transfer; after a failure the others go on in a new one.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from conf.command import PARENT
from errors import BadInput, RunStopped
from plans.identity import has_encoder
from plans.job import Job
from plans.words import literal
from reports.result import NewerRecord, read_result

HOME = Path(__file__).parent.parent
POLL = 0.2  # seconds
PATIENCE = 60.0  # seconds that a job may take to save what it has
SUBFOLDER = "${hydra:runtime.choices.transfer}_${label_fraction}"  # as jobs_of names a transfer's folder


@dataclass(frozen=True)
class Failure:
    """A job that did not end with a result.

    Attributes:
        line: why; the last that it printed.
        log: where the others are; None where it was never started.
    """

    job: Job
    line: str
    log: Path | None = None

    def __str__(self) -> str:
        return self.line + (f" (log: {self.log})" if self.log else "")


@dataclass
class Process:
    """A running command, for one job or several transfers of one encoder."""

    jobs: list[Job]
    popen: subprocess.Popen
    log: Path
    began: float = field(default_factory=time.monotonic)


@dataclass
class Work:
    """Where a plan stands."""

    jobs: Sequence[Job]
    done: list[Job] = field(default_factory=list)
    waiting: list[Job] = field(default_factory=list)
    running: list[Process] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)


class Board(Protocol):
    """Shows a person how far the work is."""

    def show(self, work: Work) -> None: ...


@dataclass(frozen=True)
class Hands:
    """How jobs are started.

    Attributes:
        slots: processes side by side; each gets its share of the cores.
        launcher: Hydra's launcher that runs them, or None for here and now.
        launcher_words: its settings.
        lock: a file descriptor that they hold as long as they live.
    """

    slots: int = 1
    launcher: str | None = None
    launcher_words: tuple[str, ...] = ()
    lock: int | None = None


def do(jobs: Sequence[Job], hands: Hands, board: Board) -> Work:
    """Do what is not done yet; returns when nothing more can be done.

    Raises:
        RunStopped: Ctrl-C or SIGTERM; jobs that were running have saved what they can.
    """
    work = Work(jobs, [job for job in jobs if job.found], [job for job in jobs if not job.found])
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while work.waiting or work.running:
            settle(work)
            while len(work.running) < hands.slots and (ready := next_ready(work)):
                begin(work, ready, hands)
            board.show(work)
            time.sleep(POLL if work.running else 0)
    except KeyboardInterrupt:
        stop(work.running)
        raise RunStopped(
            f"stopped with {len(work.done)} of {len(jobs)} jobs done; the same command goes on", 128 + signal.SIGINT
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    board.show(work)
    return work


def next_ready(work: Work) -> list[Job]:
    """The first job that can be done now, and the transfers that can share its process: a grid of protocols and fractions."""
    for job in work.waiting:
        if job.after is not None and job.after not in work.done:
            continue
        if job.script == "train":
            return [job]
        same = [other for other in work.waiting if other.script == job.script and other.words == job.words]
        fractions: dict[str, list[float]] = {}
        for other in same:
            fractions.setdefault(other.protocol, []).append(other.fraction)
        return [other for other in same if fractions[other.protocol] == fractions[job.protocol]]
    return []


def begin(work: Work, jobs: list[Job], hands: Hands) -> None:
    """Start a process for jobs that `next_ready` gave."""
    work.waiting = [job for job in work.waiting if job not in jobs]
    try:
        resumes, *_ = [prepare(job) for job in jobs]
    except NewerRecord as error:
        work.failed += [Failure(job, str(error)) for job in jobs]
        return
    folder, protocols = jobs[0].folder, dict.fromkeys(job.protocol for job in jobs)
    log = folder / "log.txt" if jobs[0].script == "train" else folder.parent / f"{'_'.join(protocols)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    work.running.append(Process(jobs, start([sys.executable, *command(jobs, resumes, hands)], log, hands), log))


def prepare(job: Job) -> bool:
    """Make way for another attempt; returns whether it goes on from a checkpoint.

    Raises:
        NewerRecord: a newer version of this project has been here.
    """
    try:
        read_result(job.folder / "result.json")
    except NewerRecord:
        raise
    except BadInput:
        pass
    (job.folder / "result.json").unlink(missing_ok=True)  # cut, or of another configuration
    if job.script != "train" or not (job.folder / "config.yaml").exists():
        return False
    if any((job.folder / "checkpoints").glob("*.ckpt")):
        return True
    shutil.rmtree(job.folder)  # begun, but nothing was saved yet
    return False


def command(jobs: list[Job], resumes: bool, hands: Hands) -> list[str]:
    """The words after `python`."""
    first, folder = jobs[0], jobs[0].folder
    launcher = [f"hydra/launcher={hands.launcher}", *hands.launcher_words] if hands.launcher else []
    if first.script == "train":
        words = list(first.words)
        if resumes:
            words = [f"resume={literal(folder)}", *(word for word in words if word.startswith(("trainer", "monitor")))]
        if launcher:  # launchers run sweeps only, so it is one of one run
            where = [f"hydra.sweep.dir={literal(folder.parent)}", f"hydra.sweep.subdir={literal(folder.name)}"]
            return [str(HOME / "train.py"), "-m", *words, *where, *launcher]
        return [str(HOME / "train.py"), *words, f"hydra.run.dir={literal(folder)}"]
    protocols, fractions = dict.fromkeys(job.protocol for job in jobs), dict.fromkeys(str(job.fraction) for job in jobs)
    grid = [f"transfer={','.join(protocols)}", f"label_fraction={','.join(fractions)}"]
    where = [f"hydra.sweep.dir={literal(folder.parent)}", f"hydra.sweep.subdir={SUBFOLDER}"]
    return [str(HOME / "finetune.py"), "-m", *first.words, *grid, *where, *launcher]


def start(words: list[str], log: Path, hands: Hands) -> subprocess.Popen:
    """A process in a group of its own, so that Ctrl-C reaches it once, through us; it ends when this process is killed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, cores // hands.slots))
    share = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} if hands.slots > 1 else {}
    with open(log, "a", encoding="utf-8") as file:
        print("$", *words, file=file, flush=True)
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | share | {PARENT: str(os.getpid())},
            start_new_session=True,
            pass_fds=() if hands.lock is None else (hands.lock,),
        )


def settle(work: Work) -> None:
    """Take the processes that ended off the list; what needs a job that failed fails too."""
    for process in [process for process in work.running if process.popen.poll() is not None]:
        work.running.remove(process)
        missing = [job for job in process.jobs if not finished(job)]
        work.done += [job for job in process.jobs if job not in missing]
        if missing:  # they are done in order, so it was the first that ended the process
            work.failed.append(Failure(missing[0], last_line(process.log), process.log))
            work.waiting = missing[1:] + work.waiting
    failed = [failure.job for failure in work.failed]
    lost = [job for job in work.waiting if job.after in failed]
    work.waiting = [job for job in work.waiting if job not in lost]
    work.failed += [Failure(job, f"needs {job.after.label}, which failed") for job in lost]


def finished(job: Job) -> bool:
    """Whether its result is there and whole."""
    try:
        read_result(job.folder / "result.json")
    except BadInput:
        return False
    return job.script != "train" or has_encoder(job.folder)


def stop(running: list[Process]) -> None:
    """Ask the processes to save and end, and wait; asked twice (Ctrl-C), or after a minute, they are killed."""
    for process in running:
        process.popen.terminate()
    try:
        for process in running:
            process.popen.wait(PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        for process in running:
            process.popen.kill()


def last_line(log: Path) -> str:
    """What a job said last, or that it said nothing."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if len(lines) > 1 else "it ended without a word"
