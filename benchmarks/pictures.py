"""The README's pictures, drawn from the records in benchmarks/results alone: what stands in its tables, to be looked at.

python benchmarks/pictures.py                # writes speed.svg and head_starts.svg beside the records
python benchmarks/pictures.py <folder>       # or into a folder
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks import novels
from benchmarks.record import RESULTS, Record, ratio, read_all
from errors import BadInput
from reports.statistics import bootstrap_interval

PRECISIONS = {"bf16": ("#0b6e8a", -0.17), "fp32": ("#c2701c", 0.17)}  # colour, and how far below the middle of its row
TEXT = {"svg.fonttype": "none", "svg.hashsalt": "headstart", "font.size": 10}  # words stay words; the same file every time


def speed(records: list[Record]) -> Figure:
    """Ours over each peer, a row a case and peer: the median, the range of the rounds, and what was wanted as a tick."""
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for record in records:
        for name, peer in record.get("peers", {}).items():
            if name != "bare" and peer["target"]:
                row, ratios = f"{record['case']} beside {name}", ratio(record["rates"]["ours"], record["rates"][name])
                found.setdefault(row, {})[record["precision"]] = (*ratios, peer["target"])
    figure, axis = plt.subplots(figsize=(8.4, 0.42 * len(found) + 1.1))
    for y, measured in enumerate(found.values()):
        for precision, (median, low, high, target) in measured.items():
            colour, below = PRECISIONS[precision]
            axis.plot([low, high], [y + below] * 2, color=colour, linewidth=2, solid_capstyle="butt")
            axis.plot(median, y + below, "o", color=colour, markersize=6)
            axis.plot([target] * 2, [y + below - 0.15, y + below + 0.15], color="#555555", linewidth=1.5)
            axis.annotate(f"{median:.2f}", (high, y + below), (5, 0), textcoords="offset points", va="center", color=colour)
    axis.axvline(1, color="#555555", linewidth=0.8)
    axis.set(xscale="log", xlabel="times as fast as the peer: median and range of rounds; the tick is what was wanted")
    axis.set_yticks(range(len(found)), list(found))
    axis.set_ylim(len(found) - 0.4, -0.6)
    axis.xaxis.set_major_locator(FixedLocator([1, 1.5, 2, 3, 4, 6, 8]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}×"))
    axis.xaxis.set_minor_locator(NullLocator())
    for precision, (colour, _) in PRECISIONS.items():
        axis.plot([], [], "o", color=colour, label=precision)
    axis.legend(loc="upper right", frameon=False)
    return bare(figure)


def head_starts(above: pd.DataFrame) -> Figure:
    """Points above random weights, a column a task and protocol, a row an objective: a dot a seed, the mean, its 95 % interval.

    Args:
        above: columns "objective", "model", "task", "seed", "accuracy" in % above that of random weights of the same seed.
    """
    tasks, objectives = list(dict.fromkeys(above["task"])), sorted(set(above["objective"]))
    figure, axes = plt.subplots(1, len(tasks), figsize=(2.6 * len(tasks), 0.42 * len(objectives) + 1.1), sharey=True)
    for axis, task in zip(axes, tasks, strict=True):
        axis.axvline(0, color="#555555", linewidth=0.8)
        for y, objective in enumerate(objectives):
            seeds = above[(above["task"] == task) & (above["objective"] == objective)]["accuracy"].to_numpy()
            low, high = bootstrap_interval(seeds)
            colour = "#0b6e8a" if low > 0 else "#b0302a" if high < 0 else "#777777"
            axis.plot(seeds, [y] * len(seeds), "|", color=colour, alpha=0.5)
            axis.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
            axis.plot(seeds.mean(), y, "o", color=colour, markersize=6)
        axis.set(title=task, xlabel="points")
    axes[0].set_yticks(range(len(objectives)), objectives)
    axes[0].set_ylim(len(objectives) - 0.5, -0.5)
    return bare(figure)


def bare(figure: Figure) -> Figure:
    """Without the frame that carries nothing."""
    for axis in figure.axes:
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
    figure.tight_layout()
    return figure


def draw(folder: Path) -> list[Path]:
    """Both pictures as files.

    Raises:
        BadInput: there are no records.
    """
    with plt.rc_context(TEXT):
        figures = {
            "speed": speed(read_all()),
            "head_starts": head_starts(novels.judged(novels.read_records(novels.RECORDS))[1]),
        }
        paths = [folder / f"{name}.svg" for name in figures]
        for path, figure in zip(paths, figures.values(), strict=True):
            figure.savefig(path, metadata={"Date": None})
            plt.close(figure)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=RESULTS, help="by default benchmarks/results")
    folder = parser.parse_args().folder
    if not folder.is_dir():
        parser.error(f"there is no folder '{folder}'")
    try:
        print(*draw(folder), sep="\n")
    except BadInput as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
