"""Processes that take turns: each runs one side's training loop and waits at the end of a step until it may go on.

So a model is built and warmed up once, what is compared alternates every few seconds, nothing computes beside it but what
workers fetch ahead, and the peak memory of a process and its workers is that of its side.
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context, set_start_method
from multiprocessing.connection import Connection
from typing import Any, Protocol

from benchmarks.machine import synchronise
from training.memory import peak_memory_bytes, peak_resident_bytes


class Gate(Protocol):
    """What a side's loop sees of the measurement."""

    def describe(self, **facts: float) -> None:
        """Say what does not change: the number of trained weights, FLOPs of a sample."""

    def step(self, **facts: float) -> None:
        """A step has ended; returns when the next may begin."""


Side = Callable[..., None]
"""(gate, *arguments): trains for ever, and calls `gate.step()` after every step."""


@dataclass
class Turns:
    """The gate of a measured process; orders come through a connection: how many steps, or None to end."""

    connection: Connection
    facts: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.facts["started_bytes"] = peak_with_workers()  # by what is imported
        self._wait()

    def describe(self, **facts: float) -> None:
        self.facts |= facts

    def step(self, **facts: float) -> None:
        self._left -= 1
        if self._left > 0:
            return
        synchronise()
        seconds = time.perf_counter() - self._began
        self.connection.send({**self.facts, **facts, "seconds": seconds, "peak_memory_bytes": peak_with_workers()})
        self._wait()

    def _wait(self) -> None:
        self._left = self.connection.recv()
        if self._left is None:
            if active_children():
                raise Ended
            os._exit(0)  # in the middle of somebody's training loop: there is nothing to tidy up
        synchronise()
        self._began = time.perf_counter()


def peak_with_workers() -> int:
    """Bytes; what workers share with the process that they were forked from counts for each of them."""
    return peak_memory_bytes() + sum(peak_resident_bytes(worker.pid) or 0 for worker in active_children())


class Ended(BaseException):
    """A side has been measured: its loop is left, so that its loader ends the workers and gives back what they share."""


class SideFailed(Exception):
    """A measured process ended by itself."""


class SideProcess:
    """One side in a process of its own, which works only while `run` waits for it, and ends with a `with` block.

    What it puts into temporary folders is gone then.

    Args:
        name: for messages.
        side, arguments: what it does; they must be importable there.

    Attributes:
        told: what `run` returned last.
    """

    def __init__(self, name: str, side: Side, arguments: Sequence[Any]):
        self.name = name
        self.told: dict[str, float] = {}
        self.folder = tempfile.TemporaryDirectory()
        self.connection, theirs = get_context("spawn").Pipe()
        self.process = get_context("spawn").Process(
            target=_take_turns, args=(theirs, self.folder.name, side, arguments), daemon=False
        )
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who gives the orders
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
        theirs.close()

    def run(self, num_steps: int) -> dict[str, float]:
        """Facts, "seconds" that the steps took and "peak_memory_bytes" so far.

        Raises:
            SideFailed: the process ended instead.
        """
        try:
            self.connection.send(num_steps)
            self.told = self.connection.recv()
            return self.told
        except (EOFError, OSError) as error:
            self.process.join()
            raise SideFailed(f"{self.name} ended with exit code {self.process.exitcode}") from error

    def __enter__(self) -> "SideProcess":
        return self

    def __exit__(self, reason: type[BaseException] | None, *_: object) -> None:
        if reason is KeyboardInterrupt:
            self.process.kill()  # rather than wait until it has imported all it needs, or for the end of its turn
        self.stop()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join(20)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.folder.cleanup()


@contextlib.contextmanager
def processes(sides: dict[str, tuple[Side, Sequence[Any]]]) -> Iterator[dict[str, SideProcess]]:
    """All sides, started; they end with the block."""
    with contextlib.ExitStack() as ended:
        yield {name: ended.enter_context(SideProcess(name, side, arguments)) for name, (side, arguments) in sides.items()}


def until_stopped(main: Callable[[], int | None]) -> int | None:
    """The exit code of a benchmark; Ctrl-C is answered in one line."""
    try:
        return main()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _take_turns(connection: Connection, folder: str, side: Side, arguments: Sequence[Any]) -> None:
    tempfile.tempdir = folder
    set_start_method(None, force=True)  # workers of a loader start as in a command, not as this process did
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)  # trainers report; the table is what is wanted
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        warnings.simplefilter("ignore")
        try:
            with contextlib.suppress(Ended):
                side(Turns(connection), *arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
