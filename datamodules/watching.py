"""What takes long says how far it is: a bar on a terminal, lines in a log file."""

import os
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich import get_console
from rich.progress import Progress, track

Step = TypeVar("Step")
INTERVAL = 60.0  # seconds between the lines of a log file


def watched(steps: Iterable[Step], description: str, total: int | None = None) -> Iterable[Step]:
    """The same steps, told of as they are done; `total` is their number where they do not know it."""
    if get_console().is_terminal:
        return track(steps, description, total, transient=True)
    total = total if total is not None or not hasattr(steps, "__len__") else len(steps)
    return _told(((step, 1) for step in steps), description, total)


def watched_in_parts(steps: Iterable[tuple[Step, int]], description: str, total: int, unit: int) -> Iterator[Step]:
    """Of (step, its size) the steps; the sizes come to `total`. A bar moves by `unit` at least, as moving it takes time."""
    if not get_console().is_terminal:
        yield from _told(steps, description, total)
        return
    with Progress(console=get_console(), transient=True) as progress:
        task = progress.add_task(description, total=total)
        waiting = 0
        for step, size in steps:
            waiting += size
            if waiting >= unit:
                progress.advance(task, waiting)
                waiting = 0
            yield step


def told(line: str) -> None:
    """A line in a log file; a terminal shows the library's own bar, and of several ranks the first one tells."""
    if not get_console().is_terminal and os.environ.get("RANK", "0") == "0":
        print(line, flush=True)


def _told(steps: Iterable[tuple[Step, int]], description: str, total: int | None) -> Iterator[Step]:
    """The steps, with a line when they begin and another one each `INTERVAL`."""
    told(description)
    shown, done = time.monotonic(), 0
    for step, size in steps:
        yield step
        done += size
        if total and time.monotonic() - shown > INTERVAL:
            shown = time.monotonic()
            told(f"{description}: {100 * done / total:.0f} %")
