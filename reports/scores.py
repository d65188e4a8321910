"""Scores by entrant, block and seed: what the statistics look at.

An entrant is a row of the table: an objective, with its model's name where there are several models. A block is one test
that all entrants can take: (task, protocol, label fraction). A seed is that of the pre-training run, because only another
pre-training is an independent repetition: several protocol seeds, or several checkpoints, of one run are averaged into one
score.
"""

from collections.abc import Iterable, Sequence
from statistics import mean

from reports.result import Result

Block = tuple[str, str, float]
Scores = dict[str, dict[Block, dict[int, float]]]


def score(result: Result) -> float:
    """The metric that fills tables, as recorded: accuracies are shares in [0, 1]."""
    return result.metrics[result.transfer.get("metric", "accuracy")]


def block(result: Result) -> Block:
    """(task, protocol, label fraction)."""
    transfer = result.transfer
    return transfer["data"], transfer["protocol"], transfer["label_fraction"]


def column(result: Result) -> str:
    """The protocol with its share of labels, as tables name it: "linear @ 0.1"."""
    fraction = result.transfer["label_fraction"]
    return result.transfer["protocol"] + (f" @ {fraction:g}" if fraction != 1 else "")


def by_seed(results: Iterable[Result]) -> dict[int, float]:
    """Seed of pre-training -> mean score, in the order of seeds."""
    found: dict[int, list[float]] = {}
    for result in results:
        found.setdefault(result.seed, []).append(score(result))
    return {seed: mean(found[seed]) for seed in sorted(found)}


def entrants(results: Sequence[Result]) -> list[str]:
    """The entrant of each result: "mae", or "mae vit_t" where the results are of several models."""
    several = len({result.model for result in results}) > 1
    return [f"{result.objective} {result.model}" if several else result.objective for result in results]


def scores_of(results: Sequence[Result]) -> Scores:
    """Entrant -> block -> seed -> score."""
    cells: dict[str, dict[Block, list[Result]]] = {}
    for entrant, result in zip(entrants(results), results, strict=True):
        cells.setdefault(entrant, {}).setdefault(block(result), []).append(result)
    return {entrant: {key: by_seed(found) for key, found in blocks.items()} for entrant, blocks in cells.items()}


def cost_of(result: Result, name: str) -> float | None:
    """What pre-training cost in "flops", "seconds" or "samples": 0 without pre-training, None where it is not recorded."""
    if result.objective == "random":
        return 0.0
    return result.budget_spent.get(name)
