"""Triton kernels on a CPU."""

from collections.abc import Callable
from multiprocessing import get_context

import pytest


def interpret(check: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a check under Triton's interpreter, in a process of its own: Triton asks for it when it is imported.

    Args:
        check: a module's function, which imports the kernels.
    """
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    process = get_context("spawn").Process(target=check)
    process.start()
    process.join()
    assert process.exitcode == 0
