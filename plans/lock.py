"""One comparison in one folder at a time."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from errors import BadInput

PATIENCE = 60.0  # seconds in which jobs that lost their comparison must have ended


@contextmanager
def sole_user(folder: Path) -> Iterator[int]:
    """Hold the folder's lock; gives its file descriptor.

    Jobs that inherit the descriptor hold the lock too. So after kill -9 nobody touches a folder that a job still writes to.

    Raises:
        BadInput: another comparison is at work there, or its jobs do not end, or the folder cannot be written.
    """
    path = folder / "compare.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise BadInput(f"folder '{folder}' cannot be written: {error.strerror}") from error
    try:
        _wait(lock, folder)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield lock
    finally:
        os.close(lock)


def _wait(lock: int, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock, 32, 0).decode()
        if owner.isdigit() and _lives(int(owner)):
            raise BadInput(f"another comparison (process {owner}) is at work in '{folder}'; wait, or give another folder=")
        if time.monotonic() > deadline:
            raise BadInput(f"jobs of a comparison that was killed are still at work in '{folder}'; end them first")
        time.sleep(0.2)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
