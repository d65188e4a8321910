"""How time and memory of a step grow with the batch, the length, the width and the number of samples.

Each point is measured in a process of its own. An exponent is the slope of a straight line through the logarithms, with its
standard error; beside it stands that of the FLOPs counted at the same points, which is what arithmetic says.
For samples it is the order of an epoch and its batches that are measured, on numbers alone: 10^3 to 10^7 of them.

    python benchmarks/growth.py                  # about eight minutes on two cores; growth.json and growth.svg in results/
    python benchmarks/growth.py samples          # into a temporary folder
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullLocator

from benchmarks import machine
from benchmarks.gate import Gate, SideFailed, SideProcess, until_stopped
from benchmarks.record import RESULTS, write_json
from benchmarks.sides import ours
from benchmarks.works import ENDLESS, Work
from datamodules.order import Order
from errors import nearest

WARM, STEPS, ORDER_BATCH, ORDER_STEPS = 2, 3, 256, 200
MEMORY_LIMITS = {"batch": 1.0, "length": 2.0, "width": 2.0, "samples": 1.0}  # activations; scores; weights; an order
UNSEEN = 2e6  # bytes
SLACK = 0.1  # of an exponent, beyond twice its standard error


@dataclass(frozen=True)
class Axis:
    """What grows: the points, and the work at each; `toy` points are for a test."""

    points: tuple[int, ...]
    toy: tuple[int, ...]
    work: Callable[[int], Work]


def text(batch: int = 16, length: int = 128, width: int = 256) -> Work:
    words = (f"model.width={width}", f"model.heads={max(1, width // 64)}", f"model.feedforward={4 * width}")
    return Work("mlm", "bert_mini", batch, length=length, vocabulary=8192, words=words)


AXES = {
    "batch": Axis((8, 16, 32, 64, 128), (2, 4), lambda batch: text(batch=batch)),
    "mae batch": Axis((8, 16, 32, 64, 128), (2, 4), lambda batch: Work("mae", "vit_t", batch, image_size=32)),
    "simclr batch": Axis((8, 16, 32, 64), (2, 4), lambda batch: Work("simclr", "resnet18", batch, image_size=32)),
    "length": Axis((64, 128, 256, 512, 1024), (16, 32), lambda length: text(batch=8, length=length)),
    "width": Axis((64, 128, 256, 512, 768), (64, 128), lambda width: text(width=width)),
}
SAMPLES = "samples"
SAMPLE_POINTS, SAMPLE_TOY = tuple(10**power for power in range(3, 8)), (10**3, 10**4)


def exponent(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """(slope, its standard error) of log y against log x, by least squares; two points have no error."""
    log_x, log_y = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    centred = log_x - log_x.mean()
    slope = float(centred @ log_y / (centred @ centred))
    if len(log_x) < 3:
        return slope, 0.0
    left = log_y - log_y.mean() - slope * centred
    return slope, float(np.sqrt(left @ left / (len(log_x) - 2) / (centred @ centred)))


def step_point(work: Work, steps: int) -> dict[str, float]:
    """{"seconds", "memory_bytes", "flops"} of a training step; memory is what the peak grew by over the imports."""
    with SideProcess(work.described(), ours, (work, "fp32")) as process:
        process.run(WARM)
        found = process.run(steps)
    flops = found["sample_flops"] * work.batch
    return {"seconds": found["seconds"] / steps, "memory_bytes": grown(found), "flops": flops}


def order_point(num_samples: int) -> dict[str, float]:
    """{"first_seconds", "seconds", "memory_bytes"}: until an epoch's first batch is known, and for each one after it."""
    with SideProcess(f"{num_samples} samples", batches_of_numbers, (num_samples,)) as process:
        first = process.run(1)["seconds"]
        found = process.run(ORDER_STEPS)
    return {"first_seconds": first, "seconds": found["seconds"] / ORDER_STEPS, "memory_bytes": grown(found)}


def grown(found: dict[str, float]) -> float:
    """Bytes; less than two megabytes cannot be told from what comes with the first batch."""
    return max(found["peak_memory_bytes"] - found["started_bytes"], UNSEEN)


def batches_of_numbers(gate: Gate, num_samples: int) -> None:
    """The order of a data set of so many samples, which are never opened; epochs last as long as they do there."""
    for _ in Order(num_samples, ORDER_BATCH, ENDLESS, seed=0):
        gate.step()


def seen(points: Sequence[int], column: Sequence[float]) -> tuple[Sequence[int], Sequence[float]]:
    """Without the first points at which memory was too small to be seen, but two points at the least."""
    first = min(sum(value == UNSEEN for value in column), len(points) - 2)
    return points[first:], column[first:]


def judged(name: str, points: Sequence[int], found: list[dict[str, float]]) -> dict[str, Any]:
    """The points with the exponents of what was found, and what arithmetic allows."""
    values = {key: [point[key] for point in found] for key in found[0]}
    exponents = {key: exponent(*seen(points, column)) for key, column in values.items()}
    memory_limit = MEMORY_LIMITS[name.split()[-1]]
    limits = {"seconds": exponents["flops"][0] if "flops" in exponents else 0.0, "memory_bytes": memory_limit}
    if "first_seconds" in exponents:
        limits["first_seconds"] = 1.0
    return {"points": list(points), "values": values, "exponents": exponents, "limits": limits}


def lines(name: str, record: dict[str, Any]) -> list[str]:
    """For a person: each exponent, its error, and whether it is within what arithmetic says."""
    shown = []
    for what, limit in record["limits"].items():
        slope, error = record["exponents"][what]
        verdict = "within" if slope <= limit + 2 * error + SLACK else "ABOVE"
        shown.append(f"{name}: {what.replace('_', ' ')} ~ n^{slope:.2f} ± {error:.2f}, {verdict} n^{limit:.2f}")
    return shown


def plot(records: dict[str, Any], path: Path) -> None:
    """Time above, memory below, a column for each axis, both scales logarithmic; dotted is what arithmetic allows."""
    figure, axes = plt.subplots(2, len(records), figsize=(3.2 * len(records), 6), squeeze=False)
    for column, (name, record) in enumerate(records.items()):
        for row, what, unit, scale in ((0, "seconds", "ms a step", 1e3), (1, "memory_bytes", "MB", 1e-6)):
            values, axis = np.array(record["values"][what]) * scale, axes[row][column]
            points, limit = np.array(record["points"]), record["limits"][what]
            axis.loglog(points, values, "o-")
            axis.loglog(points, values[0] * (points / points[0]) ** limit, ":", color="grey")
            axis.set(xlabel=name, ylabel=unit, title=f"$n^{{{record['exponents'][what][0]:.2f}}}$, dotted $n^{{{limit:.2f}}}$")
            if points[-1] < 10_000:
                axis.set_xticks(points, [str(point) for point in points])
                axis.xaxis.set_minor_locator(NullLocator())
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def measured(name: str, toy: bool) -> dict[str, Any]:
    """The record of an axis.

    Raises:
        SideFailed: the process of a point ended by itself.
    """
    if name == SAMPLES:
        points = SAMPLE_TOY if toy else SAMPLE_POINTS
        return judged(name, points, [order_point(point) for point in points])
    axis = AXES[name]
    points = axis.toy if toy else axis.points
    return judged(name, points, [step_point(axis.work(point), 1 if toy else STEPS) for point in points])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("axis", nargs="*", help=f"any of {', '.join((*AXES, SAMPLES))}; by default all")
    parser.add_argument("--toy", action="store_true", help="few small points: shows that it runs, measures nothing")
    parser.add_argument("--results", type=Path, help="folder of growth.json and growth.svg")
    chosen = parser.parse_args()
    names = chosen.axis or [*AXES, SAMPLES]
    for name in names:
        if name != SAMPLES and name not in AXES:
            parser.error(f"there is no axis '{name}'; {nearest(name, [*AXES, SAMPLES])}")
    # only all axes take the record's place
    folder = chosen.results or (Path(tempfile.mkdtemp()) if chosen.toy or chosen.axis else RESULTS)
    records: dict[str, Any] = {}
    for name in names:
        try:
            records[name] = measured(name, chosen.toy)
        except SideFailed as error:
            print(f"{name}: {error}; nothing is written down", file=sys.stderr)
            return 1
        print("\n".join(lines(name, records[name])), flush=True)
    write_json({"machine": machine.described(rates=False), "growth": records}, folder / "growth.json")
    plot(records, folder / "growth.svg")
    print(f"look: {folder / 'growth.svg'}")
    return 0


if __name__ == "__main__":
    sys.exit(until_stopped(main))
