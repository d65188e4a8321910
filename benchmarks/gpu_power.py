"""The clock and the power of a GPU while it works, as nvidia-smi tells them: a card that draws all it may multiplies slower."""

import contextlib
import shutil
import statistics
import subprocess
from collections.abc import Iterator

import torch

FIELDS = {  # MHz and watts, as nvidia-smi calls them
    "clock": "clocks.sm", "highest_clock": "clocks.max.sm", "power": "power.draw", "highest_power": "power.limit",
}  # fmt: skip
EVERY = 100  # milliseconds


def card() -> str:
    """The first of PyTorch's GPUs, as nvidia-smi knows it, whichever others there are."""
    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"


@contextlib.contextmanager
def watched(card: str | None) -> Iterator[dict[str, float]]:
    """Facts that are there afterwards: the median of each of FIELDS; none where there is no nvidia-smi, or it knows no number.

    Args:
        card: what `nvidia-smi -i` takes; None where there is no GPU.
    """
    facts: dict[str, float] = {}
    program = shutil.which("nvidia-smi")
    if card is None or program is None:
        yield facts
        return
    asked = [
        program,
        "-i",
        card,
        f"--query-gpu={','.join(FIELDS.values())}",
        "--format=csv,noheader,nounits",
        "-lms",
        str(EVERY),
    ]
    process = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield facts
    finally:
        process.terminate()
        facts |= medians(process.communicate()[0])


def medians(lines: str) -> dict[str, float]:
    """Of the columns of what nvidia-smi wrote; a line that is cut off, or has no number, does not count."""
    rows = []
    for line in lines.splitlines():
        with contextlib.suppress(ValueError):
            rows.append([float(value) for value in line.split(",")])
    whole = [row for row in rows if len(row) == len(FIELDS)]
    return {name: statistics.median(column) for name, column in zip(FIELDS, zip(*whole, strict=True), strict=False)}
