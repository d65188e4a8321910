"""Ctrl-C and SIGTERM while nobody else answers them: one line and the exit code of the signal.

Libraries catch whatever is raised within some of their imports, and go on without what they wanted: torch without NumPy, say.
A command in its first two seconds would go on as if nobody had asked it to stop, or end in somebody else's traceback.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

AFTERWARDS = {
    "train": "a run that has a checkpoint goes on by resume=<its folder>",
    "finetune": "a transfer that has no result.json yet begins anew with the same command",
    "compare": "the same command goes on with what is missing",
}


class Terminated(KeyboardInterrupt):
    """SIGTERM, where nothing has to be saved before; libraries let it through as they let Ctrl-C."""


def said_of(signal_number: int) -> str:
    """What a command says that was asked to stop: what asked, and how it goes on."""
    name = Path(sys.argv[0]).stem
    afterwards = AFTERWARDS.get(name, AFTERWARDS["train"])
    if name == "compare" and any(word.startswith("report=") for word in sys.argv):
        afterwards = "the same command writes the report anew"
    return f"{asked_by(signal_number)}; {afterwards}"


def asked_by(signal_number: int) -> str:
    """Ctrl-C in a word, other signals by their name."""
    return "interrupted" if signal_number == signal.SIGINT else f"stopped by {signal.Signals(signal_number).name}"


@contextmanager
def ended_within_imports() -> Iterator[None]:
    """Inside, Ctrl-C or SIGTERM ends the process at once where it comes during an import, and else is raised.

    A signal that is ignored, as in a shell's background job, or that somebody else answers, is left to them.
    """
    answers = {signal.SIGINT: (signal.default_int_handler, KeyboardInterrupt), signal.SIGTERM: (signal.SIG_DFL, Terminated)}
    before = {number: usual for number, (usual, _) in answers.items() if signal.getsignal(number) is usual}
    for number in before:
        signal.signal(number, _answer_with(answers[number][1], os.getpid()))
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


def _answer_with(raised: type[BaseException], process: int) -> Callable[[int, FrameType | None], None]:
    def answer(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM and os.getpid() != process:  # a data worker, say, which has nothing to tell
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                print(f"error: {said_of(number)}", file=sys.stderr, flush=True)
                os._exit(128 + number)
            frame = frame.f_back
        raise raised

    return answer
