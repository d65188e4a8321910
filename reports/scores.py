"""Scores by entrant, block and seed: what the statistics look at.

An entrant is a row of the table: an objective, with its model's name where there are several models. A block is one test
that all entrants can take: (task, protocol, label fraction). What `reports.apart` adds to names is a part of them. A seed is
that of the pre-training run, because only another pre-training is an independent repetition: several protocol seeds, or
several checkpoints, of one run are averaged into one score.
"""

import os
from collections.abc import Iterable, Sequence
from statistics import mean

from reports.result import Result

Block = tuple[str, str, float]
Scores = dict[str, dict[Block, dict[int, float]]]


def score(result: Result) -> float:
    """The metric that fills tables, as recorded: accuracies are shares in [0, 1]."""
    return result.metrics[result.transfer.get("metric", "accuracy")]


def objective(result: Result) -> str:
    """ "mae", or "mae on emoji" beside one that was pre-trained on other data."""
    return _named(result.objective, result, "objective")


def model(result: Result) -> str:
    """ "vit_t", or "vit_t depth=6" beside one of another depth."""
    return _named(result.model, result, "model")


def task(result: Result) -> str:
    """ "emoji", or "emoji label=subcategory" beside one with other labels."""
    return _named(result.transfer["data"], result, "data")


def protocol(result: Result) -> str:
    """ "knn", or "knn k=3" beside one with another k."""
    return _named(result.transfer["protocol"], result, "protocol")


def _named(name: str, result: Result, kind: str) -> str:
    return " ".join([name, *filter(None, [result.transfer.get("apart", {}).get(kind)])])


def block(result: Result) -> Block:
    """(task, protocol, label fraction)."""
    return task(result), protocol(result), result.transfer["label_fraction"]


def column(result: Result) -> str:
    """The protocol with its share of labels, as tables name it: "linear @ 0.1"."""
    fraction = result.transfer["label_fraction"]
    return protocol(result) + (f" @ {fraction:g}" if fraction != 1 else "")


def saw_the_labels(result: Result) -> bool:
    """Whether pre-training itself was on the labels of the task, on all of them: a share of them is then no limit."""
    return result.objective.startswith("supervised") and result.data == result.transfer["data"]


def by_seed(results: Iterable[Result]) -> dict[int, float]:
    """Seed of pre-training -> mean score, in the order of seeds."""
    found: dict[int, list[float]] = {}
    for result in results:
        found.setdefault(result.seed, []).append(score(result))
    return {seed: mean(found[seed]) for seed in sorted(found)}


def entrants(results: Sequence[Result]) -> list[str]:
    """The entrant of each result: its objective, and where the results are of several models that, too: "mae vit_t"."""
    several = len({model(result) for result in results}) > 1
    return [f"{objective(result)} {model(result)}" if several else objective(result) for result in results]


def entrant_names(results: Sequence[Result]) -> dict[tuple[str, str], str]:
    """(objective, model) -> entrant."""
    return {(objective(result), model(result)): name for result, name in zip(results, entrants(results), strict=True)}


def informed(results: Sequence[Result]) -> set[str]:
    """The entrants that saw all labels of a task before a test that gives the others a share of them."""
    pairs = zip(entrants(results), results, strict=True)
    return {name for name, result in pairs if result.transfer["label_fraction"] < 1 and saw_the_labels(result)}


def scores_of(results: Sequence[Result]) -> Scores:
    """Entrant -> block -> seed -> score."""
    cells: dict[str, dict[Block, list[Result]]] = {}
    for entrant, result in zip(entrants(results), results, strict=True):
        cells.setdefault(entrant, {}).setdefault(block(result), []).append(result)
    return {entrant: {key: by_seed(found) for key, found in blocks.items()} for entrant, blocks in cells.items()}


def cost_of(result: Result, name: str) -> float | None:
    """What pre-training cost in "flops", "seconds" or "samples": 0 without pre-training, None where it is not recorded.

    FLOPs and seconds are counted with those of the runs that it was built on: a teacher, or what it began with.
    """
    own = 0.0 if result.objective == "random" else spent_on(result.budget_spent, name)
    if own is None or name == "samples" or not starts(result):
        return own
    before = spent_on(result.transfer.get("built_on", {}), name)
    return None if before is None else own + before


def starts(result: Result) -> list[str]:
    """The runs or weights that pre-training began with or learned from."""
    recorded = result.transfer.get("built_on", {}).get("from")
    return recorded or [found for found in [result.transfer.get("continued_from")] if found]


def spent_on(budget: dict[str, float | None], name: str) -> float | None:
    """Of a record's `budget_spent`; seconds are those of training, because monitors belong to no objective.

    Records of an earlier version have no `minutes`; of these it is the wall-clock time.
    """
    minutes = budget.get("minutes")
    return 60 * minutes if name == "seconds" and minutes is not None else budget.get(name)


def mean_cost(results: Iterable[Result], name: str) -> float | None:
    """Mean over runs of what pre-training cost, however often each was tested; None where no record says."""
    spent: dict[tuple[str, int], list[float]] = {}
    for result in results:
        cost = cost_of(result, name)
        if cost is not None:
            spent.setdefault((os.path.realpath(result.transfer["checkpoint"]), result.seed), []).append(cost)
    return mean(map(mean, spent.values())) if spent else None
