"""Ctrl-C while modules are imported.

Libraries catch whatever is raised within some of their imports, and go on without what they wanted: torch without NumPy, say.
A command in its first two seconds would go on as if nobody had asked it to stop, or end in somebody else's traceback.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = "interrupted; a run that has a checkpoint goes on by resume=<its folder>"


@contextmanager
def ended_within_imports() -> Iterator[None]:
    """Inside, Ctrl-C ends the process at once where it comes during an import, and else is raised as usual."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # it is ignored, as in a shell's background job, or somebody else answers it
        yield
        return
    signal.signal(signal.SIGINT, _answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _answer(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            print(f"error: {INTERRUPTED}", file=sys.stderr, flush=True)
            os._exit(128 + number)
        frame = frame.f_back
    raise KeyboardInterrupt
