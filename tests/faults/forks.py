"""Runs that can be killed: train.py in a fork of this process, which has everything imported already."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from conftest import inside

WHILE_WAITING = 0.002  # seconds


@dataclass
class Fork:
    """A command that is going on.

    Attributes:
        pid: of the process.
        log: what it prints.
    """

    pid: int
    log: Path

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float) -> int | None:
        """Its exit code, minus a number where a signal ended it; None when it is still there."""
        until = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= until:
                return None
            time.sleep(WHILE_WAITING)


def begin(cwd: Path, *words: str, prepare: Callable[[], None] = lambda: None, script: str = "train.py") -> Fork:
    """Start a command; `prepare` may break things in its process first."""
    cwd.mkdir(parents=True, exist_ok=True)
    log = cwd / f"log_{time.monotonic_ns()}.txt"
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Fork(pid, log)
    code = 70
    try:
        torch.set_num_threads(1)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a tokenizer's threads do not survive a fork: it would wait forever
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
        prepare()
        done = inside(script, *words, cwd=cwd)
        log.write_text(done.stdout)
        code = done.returncode or 0
    except BaseException as error:
        log.write_text(f"left open: {error!r}")
    finally:
        os._exit(code)


def run(
    cwd: Path, *words: str, seconds: float = 120, prepare: Callable[[], None] = lambda: None, script: str = "train.py"
) -> tuple[int, str]:
    """(exit code, output) of a command, or a failure where it does not end."""
    fork = begin(cwd, *words, prepare=prepare, script=script)
    code = fork.wait(seconds)
    if code is None:
        fork.kill(signal.SIGKILL)
        fork.wait(10)
        raise AssertionError(f"still running after {seconds} s: {' '.join(words)}")
    return code, fork.log.read_text() if fork.log.exists() else ""


def die() -> None:
    """As kill -9 does, from within."""
    os.kill(os.getpid(), signal.SIGKILL)
