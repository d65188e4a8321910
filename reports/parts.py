"""What the report says, before it is written as a page and as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from reports.cards import Card, cards_of, warnings
from reports.continued import continued_lines
from reports.figure import Figure, looks_of
from reports.head_start import head_starts
from reports.learning import learning_figures
from reports.plots import label_figures, pareto_figures, score_figures
from reports.ranks import rank_figure
from reports.result import Result
from reports.rows import Row, baseline_first, rows_of
from reports.runs import Run, find_runs
from reports.scores import entrant_names, model, objective, protocol, task
from reports.statistics import Pair, compare_pairs
from reports.svg import COLOURS, Chart
from reports.verdict import families, head_start_line, pareto_lines, plan, summary, verdicts


@dataclass(frozen=True)
class Part:
    """Results that belong together (see `reports.verdict.families`).

    Attributes:
        name: the tasks.
        legend: (entrant, its marker).
        learned: the entrants of the legend that have learning curves.
        verdicts, starts, fronts, continued, plan: sentences.
        scores, labels, costs, learning: figures.
        ranks: the critical-difference diagram, where two entrants met.
        pairs: every pair that met.
        warnings: what makes the comparison unequal.
        runs: behind the results.
    """

    name: str
    legend: list[tuple[str, Markup]]
    learned: list[tuple[str, Markup]]
    verdicts: list[str]
    starts: list[str]
    fronts: list[str]
    continued: list[str]
    plan: str
    scores: list[Figure]
    labels: list[Figure]
    ranks: Figure | None
    pairs: list[Pair]
    costs: list[Figure]
    learning: list[Figure]
    warnings: list[str]
    runs: list[Run]


@dataclass(frozen=True)
class Report:
    """Everything.

    Attributes:
        results: in the order of the table.
        summary: (who is ahead, the numbers behind that), one a part.
        warnings: what makes the comparison unequal.
        rows: of the table.
        parts: see above.
        cards: one a run.
        broken: one line a result file that could not be read.
    """

    results: list[Result]
    summary: list[tuple[str, str]]
    warnings: list[str]
    rows: list[Row]
    parts: list[Part]
    cards: list[Card]
    broken: list[str]

    @classmethod
    def of(cls, results: Sequence[Result], broken: list[str], folder: Path) -> "Report":
        """The same results in any order give the same report.

        Args:
            results: transfer results, one at least.
            broken: one line a result file that could not be read.
            folder: below which runs that have moved are looked for.
        """
        results = sorted(results, key=_order)
        runs = find_runs(results, folder)
        parts = [_part(sorted(found, key=_order), runs) for found in families(results)]
        cards = cards_of([part.runs for part in parts])
        unequal = [line for part in parts for line in part.warnings]
        return cls(results, summary(results), unequal, rows_of(results), parts, cards, broken)

    @property
    def tasks(self) -> str:
        return ", ".join(part.name for part in self.parts)

    @property
    def choices(self) -> dict[str, list[str]]:
        """What the table can be filtered by."""
        return {
            "objective": sorted(set(map(objective, self.results)), key=baseline_first),
            "model": sorted(set(map(model, self.results))),
            "data": sorted(set(map(task, self.results))),
            "protocol": sorted(set(map(protocol, self.results))),
        }

    def seeds(self, row: Row) -> list[tuple[int, str]]:
        """(seed, anchor of its card) for the runs behind a row."""
        behind = {id(result) for result in row.results}
        runs = [card.run for card in self.cards if any(id(test.result) in behind for test in card.run.transfers)]
        return [(run.seed, run.anchor) for run in runs]


def _order(result: Result) -> tuple:
    transfer = result.transfer
    return (
        baseline_first(objective(result)), model(result), task(result), protocol(result), -transfer["label_fraction"],
        result.seed, transfer["seed"], transfer["checkpoint"],
    )  # fmt: skip


def _part(results: Sequence[Result], runs: Sequence[Run]) -> Part:
    looks = looks_of(results)
    named = entrant_names(results)
    names = {run.anchor: named.get((objective(run.test), model(run.test))) for run in runs}
    behind = [run for run in runs if names[run.anchor] is not None]
    legend = [(name, _key(look)) for name, look in looks.items()]
    learned = {names[run.anchor] for run in behind if run.events.scalars}
    return Part(
        name=", ".join(sorted(set(map(task, results)))),
        legend=legend,
        learned=[(name, key) for name, key in legend if name in learned],
        verdicts=verdicts(results),
        starts=[head_start_line(found) for found in head_starts(results)],
        fronts=pareto_lines(results),
        continued=continued_lines(results),
        plan=plan(results),
        scores=score_figures(results, looks),
        labels=label_figures(results, looks),
        ranks=rank_figure(results, looks),
        pairs=compare_pairs(results),
        costs=pareto_figures(results, looks),
        warnings=warnings(behind, names),
        learning=learning_figures([(names[run.anchor], run) for run in behind], looks),
        runs=behind,
    )


def _key(look: int) -> Markup:
    """The marker and line of an entrant, for a legend whose words stand beside it."""
    chart = Chart("", 14, 34)
    chart.root.set("aria-hidden", "true")
    chart.line([(0, 7), (34, 7)], f"line c{look % COLOURS} d{look % 4}")
    chart.marker(17, 7, look)
    return chart.markup
