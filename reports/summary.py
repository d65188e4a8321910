"""What a comparison says on a terminal: the table, what it shows and what not, what is missing, and where the report is."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from reports.continued import continued_lines
from reports.head_start import head_starts
from reports.result import Result
from reports.table import accuracy_table
from reports.verdict import head_start_line, pareto_lines, verdicts


def console() -> Console:
    """A terminal's own width; a log file has none, and 80 would cut the columns."""
    found = Console()
    return found if found.is_terminal else Console(width=160)


def summarise(folder: Path, results: Sequence[Result], left_out: Sequence[str]) -> None:
    """Print it, and write the report into `folder`.

    Args:
        left_out: a line for each result that is missing or cannot be read.
    """
    shown = console()
    if results:
        shown.print(accuracy_table(results))
        shown.print("mean ± standard deviation (number of seeds), below it the 95 % interval of the mean;")
        shown.print("samples, FLOPs and seconds are those of pre-training")
    starts = map(head_start_line, head_starts(results))
    for line in (*verdicts(results), *starts, *pareto_lines(results), *continued_lines(results)):
        shown.print(line, markup=False, highlight=False)
    for line in left_out:
        shown.print(f"left out: {line}", markup=False, highlight=False, soft_wrap=True)
    if results:
        from reports.page import write_report  # draws plots, which takes seconds to import
        from reports.parts import Report

        report = Report.of(results, left_out, folder)
        for line in report.warnings:
            shown.print(f"warning:  {line}", markup=False, highlight=False, soft_wrap=True)
        page = write_report(folder, report)
        shown.print(f"report:   {page}", highlight=False, soft_wrap=True)
        shown.print(f"open:     python -m webbrowser {page}", highlight=False, soft_wrap=True)
    shown.print(f"look:     tensorboard --logdir {folder}", highlight=False, soft_wrap=True)
