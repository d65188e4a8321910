"""What it was worth to go on with pre-training on other data: the gain on the new task, the loss on the old one."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from reports.result import Result
from reports.scores import block, column, entrants, score, task
from reports.statistics import bootstrap_interval


def continued_lines(results: Sequence[Result]) -> list[str]:
    """One line a continued entrant and test that the runs which it began with took, too.

    Each continued run is compared with the very run that it began with, so a change is paired, and the spread is that of the
    change over seeds.
    """
    before: dict[tuple, list[float]] = {}
    for result in results:
        before.setdefault((_path(result.transfer["checkpoint"]), block(result)), []).append(score(result))
    changes: dict[tuple[str, str, str], dict[int, list[float]]] = {}
    for name, result in zip(entrants(results), results, strict=True):
        origin = result.transfer.get("continued_from")
        known = before.get((_path(origin), block(result))) if origin else None
        if known:
            seeds = changes.setdefault((name, column(result), _task(result)), {})
            seeds.setdefault(result.seed, []).append(score(result) - mean(known))
    return [_line(*key, [mean(found) for found in seeds.values()]) for key, seeds in sorted(changes.items())]


def _path(checkpoint: str) -> Path:
    return Path(checkpoint).resolve()


def _task(result: Result) -> str:
    """The task, and whether it is what the run was continued on or what it had learned before."""
    name, new, old = result.transfer["data"], result.data, result.transfer["continued_data"]
    if new == old or name not in (new, old):
        return task(result)
    return f"{task(result)}, the {'new' if name == new else 'old'} data"


def _line(entrant: str, protocol: str, data: str, changes: list[float]) -> str:
    """In points."""
    found = bootstrap_interval(changes)
    sure = f"95 % interval from {100 * found[0]:+.1f} to {100 * found[1]:+.1f}, {len(changes)} seeds" if found else "one seed"
    return f"{entrant}, {protocol} on {data}: {100 * mean(changes):+.1f} points by going on ({sure})"
