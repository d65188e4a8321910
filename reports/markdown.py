"""The report as text: report.md."""

import re
from collections.abc import Iterable, Sequence

from reports.amounts import amount, interval, percent
from reports.parts import Report
from reports.rows import Row

HEADER = (
    "objective", "model", "data", "protocol", "mean, %", "sd", "95 % interval", "seeds", "labels",
    "samples", "FLOPs", "seconds",
)  # fmt: skip


def markdown(report: Report) -> str:
    """Summary, table, verdicts, head start, cost, runs with their commands, and what was left out."""
    lines = ["# Which objective gives the best head start?", "", "## Summary", ""]
    lines += [line for claim, evidence in report.summary for line in (text(f"{claim} {evidence}"), "")]
    lines += [line for warning in report.warnings for line in (f"Warning: {text(warning)}", "")]
    lines += ["## Results", "", *_table(report.rows), ""]
    lines += ["Samples, FLOPs and seconds are those of pre-training.", ""]
    titles = {
        "verdicts": "What can be told apart", "starts": "Head start", "fronts": "Cost", "continued": "Continued pre-training",
    }  # fmt: skip
    for key, title in titles.items():
        found = [f"- {text(line)}" for part in report.parts for line in getattr(part, key)]
        lines += [f"## {title}", "", *found, ""] if found else []
    lines += ["## Runs", ""]
    for card in report.cards:
        commands = [card.run.command] if card.run.command else []
        lines += [f"### {text(card.title)}", "", f"{text(card.line)}.", ""]
        lines += [*_code([*commands, *(test.command for test in card.run.transfers)]), ""]
        if commands and not card.run.exact:
            lines += ["The first command is from the record alone: other settings of the run are not known.", ""]
    if report.broken:
        lines += ["## Left out", "", *(f"- {text(line)}" for line in report.broken), ""]
    return "\n".join(lines)


def text(words: str) -> str:
    """Words that mean themselves: on one line, nothing of them markup."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(words.split()))


def plain_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells as they are, every column to the left."""
    return "\n".join(map(_line, (header, ["---"] * len(header), *rows)))


def _table(rows: Iterable[Row]) -> Iterable[str]:
    yield _line(HEADER)
    yield _line("---" if i < 4 else "---:" for i in range(len(HEADER)))
    for row in rows:
        score = row.score
        yield _line(
            text(cell) for cell in (
                row.objective, row.model, row.task, row.column, percent(score.mean),
                "-" if score.spread is None else percent(score.spread), interval(score.interval), str(len(score.seeds)),
                amount(row.labels),
                *(amount(row.cost[name]) for name in ("samples", "flops", "seconds")),
            )
        )  # fmt: skip


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(commands: Sequence[str]) -> list[str]:
    """A fenced block, whose fence is longer than any in it."""
    fence = "`" * max([3, *(len(run) + 1 for command in commands for run in re.findall("`+", command))])
    return [f"{fence}sh", *commands, fence]
