"""Processes that a test has started, and those that they have started."""

import re
import subprocess
import time
from pathlib import Path


def children(process: subprocess.Popen) -> dict[int, int]:
    """rank -> process id, of the ranks that a process has started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(re.search(r"^PPid:\s+(\d+)", (folder / "status").read_text(), re.M)[1])
            if parent == process.pid:
                found[int(re.search(r"\0RANK=(\d+)", (folder / "environ").read_text())[1])] = int(folder.name)
        except (OSError, TypeError):
            continue  # gone in the meantime
    return found


def gone(pids: list[int], seconds: float) -> bool:
    """Whether processes end within that time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_text() for pid in pids):
            return True
        time.sleep(0.2)
    return False
