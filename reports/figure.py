"""What a figure is, and which rows of the table belong into it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from reports.amounts import interval, percent
from reports.result import Result
from reports.rows import Measured, Row, baseline_first, rows_of
from reports.scores import block, entrant_names
from reports.svg import LONGEST


@dataclass(frozen=True)
class Figure:
    """A chart, and what it shows as text: `rows` (R, C) of strings under `header` (C,)."""

    title: str
    svg: Markup
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def looks_of(results: Sequence[Result]) -> dict[str, int]:
    """Entrant -> number of its colour, shape and dash; number 0, the grey one, is for random initialisation."""
    found = {name: (baseline_first(objective), model) for (objective, model), name in entrant_names(results).items()}
    first = 0 if any(result.objective == "random" for result in results) else 1
    return {name: i for i, name in enumerate(sorted(found, key=found.__getitem__), start=first)}


def named(results: Sequence[Result], rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    """Each row of these results with its entrant."""
    names = entrant_names(results)
    for row in rows:
        yield names[row.objective, row.model], row


def tests(results: Sequence[Result]) -> dict[str, dict[str, Row]]:
    """ "linear @ 0.1 on emoji" -> entrant -> row."""
    found: dict[tuple[str, str, float], dict[str, Row]] = {}
    for name, row in named(results, rows_of(results)):
        task, protocol, fraction = block(row.results[0])
        found.setdefault((task, protocol, -fraction), {})[name] = row
    return {f"{next(iter(rows.values())).column} on {task}": rows for (task, _, _), rows in sorted(found.items())}


def numbers(name: str, row: Row) -> tuple[str, ...]:
    """(entrant, mean, interval, number of seeds, each score) as a table shows them."""
    each = ", ".join(percent(score) for score in row.score.seeds.values())
    return name, percent(row.score.mean), interval(row.score.interval), str(len(row.score.seeds)), each


def sentence(rows: dict[str, Row]) -> str:
    """ "mae 53.3 %, random 50.1 %"."""
    return ", ".join(f"{name} {percent(row.score.mean)} %" for name, row in rows.items())


def metric(rows: dict[str, Row]) -> str:
    """What the scores are: "accuracy", or "score" where rows differ."""
    names = {row.metric.replace("_", " ") for row in rows.values()}
    return names.pop() if len(names) == 1 else "score"


def extent(score: Measured) -> tuple[float, ...]:
    """The values that a chart must have room for."""
    return (score.mean, *(score.interval or ()))


def short(name: str) -> str:
    """A name as a chart has room for it."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
