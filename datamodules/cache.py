"""The folder in which what takes long is kept between runs, and how two processes do not make the same at once."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from errors import BadInput

log = logging.getLogger(__name__)


def cache_folder(cache: str | None, kind: str) -> Path:
    """`cache`, or $HEADSTART_CACHE, or .cache/headstart in the home folder; below it one folder a kind of thing."""
    root = Path(cache or os.environ.get("HEADSTART_CACHE") or Path.home() / ".cache" / "headstart").expanduser()
    folder = root / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"datamodule.cache='{root}' cannot be written: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise BadInput(f"datamodule.cache='{root}' cannot be written")
    return folder


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """While this lasts, no other process is in here for the same path; a killed one leaves nothing locked."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        log.warning("another process is making %s; waiting for it", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
