"""The rows of the table: a score of one objective, model, data set and protocol over seeds, and what it cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from reports.result import Result
from reports.scores import by_seed, column, mean_cost, model, objective, protocol, task
from reports.statistics import bootstrap_interval

BASELINES = ("random", "supervised", "supervised_text")  # first rows of every table
SHARES = ("accuracy", "macro_f1", "recall_at_1")  # the other metrics are correlations, from -1 to 1


@dataclass(frozen=True)
class Measured:
    """A score over seeds of pre-training.

    Attributes:
        seeds: seed -> score.
        mean: over seeds.
        spread: standard deviation over seeds; None with one.
        interval: 95 %, of the mean, within what the metric can be; None with one seed.
    """

    seeds: dict[int, float]
    mean: float
    spread: float | None
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, results: Sequence[Result]) -> "Measured":
        seeds = by_seed(results)
        scores = list(seeds.values())
        interval = bootstrap_interval(scores)
        if interval is not None:
            lowest = 0.0 if results[0].transfer.get("metric", "accuracy") in SHARES else -1.0
            interval = max(interval[0], lowest), min(interval[1], 1.0)
        return cls(seeds, mean(scores), stdev(scores) if len(scores) > 1 else None, interval)


@dataclass(frozen=True)
class Row:
    """One row of the long table.

    Attributes:
        objective, model, task, column: which.
        metric: what the score is.
        labels: that the protocol could use, mean over runs; None where it is not recorded.
        score: over seeds.
        cost: "samples", "flops", "seconds" of pre-training -> mean over runs; None where no record says.
        results: behind it.
    """

    objective: str
    model: str
    task: str
    column: str
    metric: str
    labels: float | None
    score: Measured
    cost: dict[str, float | None]
    results: tuple[Result, ...]

    @property
    def protocol(self) -> str:
        return protocol(self.results[0])


def rows_of(results: Iterable[Result]) -> list[Row]:
    """One row an objective, model, task and protocol with its share of labels; baselines first."""
    found: dict[tuple[str, str, str, str], list[Result]] = {}
    for result in results:
        found.setdefault((objective(result), model(result), task(result), column(result)), []).append(result)
    rows = []
    for key in sorted(found, key=lambda key: (baseline_first(key[0]), key[1], key[2], _few_labels_last(found[key][0]))):
        runs = found[key]
        labels = [run.transfer["num_labels"] for run in runs if run.transfer.get("num_labels") is not None]
        costs = {name: mean_cost(runs, name) for name in ("samples", "flops", "seconds")}
        metric = runs[0].transfer.get("metric", "accuracy")
        rows.append(Row(*key, metric, mean(labels) if labels else None, Measured.of(runs), costs, tuple(runs)))
    return rows


def _few_labels_last(result: Result) -> tuple[str, float]:
    return protocol(result), -result.transfer["label_fraction"]


def baseline_first(name: str) -> tuple[int, str]:
    """Sorts random, then supervised, then the others by name, on whatever data."""
    own = name.partition(" ")[0]
    return (BASELINES.index(own) if own in BASELINES else len(BASELINES)), name
