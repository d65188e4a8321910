"""Encoders behind one small contract, and the pairs of them that image-text runs leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.pair import Pair


def load_pair(run: str | Path) -> Pair:
    """Both encoders of an image-text run's folder: `pair.images(pictures) @ pair.texts(["a red apple"]).T` are cosines.

    Raises:
        BadInput: the folder holds no pair, or one that cannot be read.
    """
    from models.export import load_pair

    return load_pair(run)
