"""The folder in which what takes long is kept between runs, whole or not at all, and made by one process at a time."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from errors import BadInput, one_line

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
    except (NotImplementedError, OSError) as error:
        raise BadInput(
            f"'{path.parent}' cannot be locked ({one_line(error)}), so that two processes could make the same at once; "
            "datamodule.cache=<a folder on this machine's own disk> can"
        ) from error
    try:
        yield
    finally:
        lock.release()


def keep(unfinished: Path, path: Path) -> None:
    """Give a finished file, or folder of files, its name: even after a power cut all of it stands there, or nothing.

    Raises:
        OSError: the disk is full, for example.
    """
    for part in (*(unfinished.iterdir() if unfinished.is_dir() else ()), unfinished):
        sync(part)
    os.replace(unfinished, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
