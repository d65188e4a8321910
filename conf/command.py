"""A command: Hydra composes its words into settings, its function is called for each job, and a line tells what went wrong."""

import contextlib
import ctypes
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from conf.collector import collect_rarely
from conf.endings import ending_of, is_first_rank
from conf.interrupts import ended_within_imports
from conf.pasted import start_here, started_in
from conf.words import quoted, readable, settle_late
from errors import RunStopped

PARENT = "HEADSTART_PARENT"  # environment variable: the process that started this one and must not be outlived
PR_SET_PDEATHSIG = 1  # of Linux's prctl
STOPS = tuple(128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT))  # exit codes


def command(**composition: str | None) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a command of a function of the configuration; `composition` is `hydra.main`'s `config_path` and `config_name`.

    Of a sweep (-m) each job that fails is told at once, and the others are done; a signal ends them all.
    """

    def decorate(main: Callable[[DictConfig], Any]) -> Callable[[], None]:
        failed: dict[int, Exception] = {}
        return answered(hydra.main(version_base="1.3", **composition)(_job(main, failed)), failed)

    return decorate


def answered(main: Callable[[], Any], failed: dict[int, Exception] | None = None) -> Callable[[], None]:
    """What a user can get wrong ends in one line and a non-zero exit code, no traceback.

    A defect of this project still shows its whole traceback.

    Args:
        main: the command.
        failed: by its end, the numbers of the jobs of a sweep that failed, and why.
    """

    @functools.wraps(main)
    def run() -> None:
        end_with_parent()
        collect_rarely()
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, so that the line below is ours
        start_here()
        sys.argv[1:] = settle_late(readable([quoted(word) for word in sys.argv[1:]], sys.argv[0]))
        try:
            with ended_within_imports():
                main()
            return
        except _PastHydra as passing:
            error = passing.error
        except (Exception, KeyboardInterrupt) as caught:
            error = caught
        if isinstance(error, BrokenPipeError):  # what is still in the buffer must not fail again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ending = ending_of(error)
        if ending is None:
            raise error
        line, code = ending
        if failed and len(failed) > 1 and error in failed.values():  # not where a signal ended the sweep
            line = f"{len(failed)} jobs of the sweep failed ({', '.join(map(str, failed))}); the first: {line}"
        _say("error", line)
        sys.exit(code)

    return run


class _PastHydra(BaseException):
    """Carries an error past Hydra, which would write a line of its own before ours, or go on with a sweep's next job."""

    def __init__(self, error: BaseException):
        self.error = error


def _job(main: Callable[[DictConfig], Any], failed: dict[int, Exception]) -> Callable[[DictConfig], Any]:
    @functools.wraps(main)
    def job(config: DictConfig) -> Any:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        try:
            try:
                return main(config)
            finally:
                leave_no_empty(Path(HydraConfig.get().runtime.output_dir), HydraConfig.get().overrides.hydra)
        except Exception as error:
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                raise _PastHydra(error) from None
            number = HydraConfig.get().job.num
            if isinstance(error, RunStopped) and error.exit_code in STOPS:
                error.add_note(f"the sweep ends with this job, {number}")
                raise _PastHydra(error) from None
            failed[number] = error
            ending = ending_of(error)
            if ending is None:
                traceback.print_exception(error)
            _say(f"job {number} failed", ending[0] if ending else repr(error))
            let_go(error)
            raise  # for the sweep's end, and for sweepers that look at what became of a job

    return job


def leave_no_empty(folder: Path, words: Iterable[str]) -> None:
    """Remove the folder that Hydra made for a job which wrote nothing, and those that it made around it.

    Args:
        words: of the command line, about Hydra; a folder that they name stays.
    """
    if any(word.startswith(("hydra.run.dir=", "hydra.sweep.dir=")) for word in words):
        return
    with contextlib.suppress(OSError):  # it is not empty
        for made in (folder, *folder.parents):
            if started_in() not in made.parent.parents:  # outputs/ itself stays
                break
            made.rmdir()


def let_go(error: BaseException | None) -> None:
    """Clear the variables of where an error comes from: they hold a run's tensors, and Hydra keeps it until its sweep ends."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _say(what: str, line: str | None) -> None:
    if line is not None:
        who = "" if is_first_rank() else f"rank {os.environ['RANK']}: "
        print(f"{what}: {who}{line}", file=sys.stderr, flush=True)


def begins_here(resume: str | None) -> bool:
    """Whether this process makes a folder for a new run; torchrun and srun tell the ranks of a run apart."""
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    return resume in (None, "auto") and rank == "0"


def end_with_parent() -> None:
    """Let Linux ask this process to stop when the one that started it is gone, even by kill -9.

    Otherwise compare.py, killed and started again, would meet a job that is still at work (elsewhere it waits for such a job),
    and a resumed run the ranks of a launcher that could not tell them.
    """
    parent = os.environ.pop(PARENT, None)
    if (parent is None and "RANK" not in os.environ) or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent is not None and os.getppid() != int(parent):
        sys.exit(128 + signal.SIGTERM)
