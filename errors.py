"""Errors are part of the interface: one line that names the thing, the reason and the choices."""

import difflib
from collections.abc import Iterable


class BadInput(Exception):
    """Something the user gave cannot be used; the message is one line and says what would be."""


class RunStopped(Exception):
    """A run ended before its budget (signal, non-finite loss); the message says what is saved and how to go on.

    Args:
        everywhere: whether every rank ends with it, so that the first one's word is enough.
    """

    def __init__(self, message: str, exit_code: int = 1, everywhere: bool = False):
        super().__init__(message)
        self.exit_code, self.everywhere = exit_code, everywhere


class Elsewhere(Exception):
    """The first rank refused to go on and tells the user why; the others end without a word."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """'did you mean a or b? choices: a, b, c': the close matches first, then everything there is."""
    choices = sorted(str(choice) for choice in choices)
    close = difflib.get_close_matches(str(name), choices, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}choices: {', '.join(choices)}"


def one_line(error: BaseException) -> str:
    """What a library says, without its line breaks, at most 200 characters."""
    return " ".join(str(error).split())[:200]
