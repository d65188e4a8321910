"""Chains of small operations on pixels: as written each is a pass over memory of its own, and a compiler joins them.

`training.arrangement` says when, for the whole process.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

import torch

_compiling = False


def compile_chains(on: bool) -> None:
    """From now on, compile what is `fused`, for its very shapes, or run it as it is written."""
    global _compiling
    _compiling = on


def chains_compiled() -> bool:
    return _compiling


@contextmanager
def as_written() -> Iterator[None]:
    """Nothing is compiled here: what is looked at comes in all shapes."""
    before = _compiling
    compile_chains(False)
    try:
        yield
    finally:
        compile_chains(before)


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """A pure function of tensors and plain values, compiled when `compile_chains` says so."""

    @wraps(function)
    def whichever(*arguments: Any) -> Any:
        return (_compiled(function) if _compiling else function)(*arguments)

    return whichever


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)
