"""The Pareto front: what nothing else beats at the same or a lower cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from reports.result import Result
from reports.scores import by_seed, column, mean_cost, model, objective, task


@dataclass(frozen=True)
class Spent:
    """One row of a column of the table as a point.

    Attributes:
        objective, model, task, column: which.
        cost: of pre-training, mean over runs, in FLOPs or seconds.
        score: mean over seeds, a share.
    """

    objective: str
    model: str
    task: str
    column: str
    cost: float
    score: float


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the (cost, score) points that no other point dominates, cheapest first.

    A point dominates another if it costs no more and scores no less, and is better in one of the two; so of two equal points
    both are kept. Only means are looked at: a front does not say which of its steps are beyond chance.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def fronts(results: Iterable[Result], cost: str = "flops") -> dict[tuple[str, str], list[Spent]]:
    """(task, column) -> the front of pre-training cost against score, cheapest first.

    Random initialisation costs nothing. What has no record of its cost is left out.

    Args:
        cost: "flops" or "seconds".
    """
    rows: dict[tuple[str, str, str, str], list[Result]] = {}
    for result in results:
        rows.setdefault((objective(result), model(result), task(result), column(result)), []).append(result)
    points: dict[tuple[str, str], list[Spent]] = {}
    for key, found in rows.items():
        spent = mean_cost(found, cost)
        if spent is not None:
            mean = float(np.mean(list(by_seed(found).values())))
            points.setdefault(key[2:], []).append(Spent(*key, spent, mean))
    return {key: [there[i] for i in pareto_front([(p.cost, p.score) for p in there])] for key, there in points.items()}
