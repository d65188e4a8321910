"""How far a plan is: a live table on a terminal, a line for each job that began or ended in a log file."""

import re
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from plans.job import Job
from plans.running import Process, Work, last_line

SHOWN = 5  # jobs that ended last, and jobs that come next
LEFT = re.compile(r"(\d+):(\d\d) left")


class LiveBoard:
    """Used as a context: done, running with the time left, failed, waiting."""

    def __init__(self, console: Console):
        self.console = console
        self.live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._told: set[tuple[str, Job]] = set()
        self._began: dict[Job, float] = {}

    def __enter__(self) -> "LiveBoard":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.stop()

    def show(self, work: Work) -> None:
        """Bring up to date."""
        if self.live:
            self.live.update(table(work))
            return
        failures = {failure.job: failure for failure in work.failed}
        events = [("done", job) for job in work.done if not job.found] + [("failed", job) for job in failures]
        events += [("begins", job) for process in work.running for job in process.jobs]
        for event in events:
            if event not in self._told:
                self._told.add(event)
                self._tell(*event, work, failures)

    def _tell(self, event: str, job: Job, work: Work, failures: dict) -> None:
        ended = len(work.done) + len(work.failed)
        took = f", {timedelta(seconds=int(time.monotonic() - self._began[job]))}" if job in self._began else ""
        if event == "begins":
            self._began[job] = time.monotonic()
        reason = f": {failures[job].line}" if event == "failed" else ""
        self.console.print(
            f"[{ended}/{len(work.jobs)}] {event}  {job.label}{took}{reason}", markup=False, highlight=False, soft_wrap=True
        )


def table(work: Work) -> Group:
    """The jobs that matter now, and how many there are of each kind."""
    rows = Table(box=None, pad_edge=False)
    for name in ("job", "state", "time"):
        rows.add_column(name, justify="right" if name == "time" else "left")
    for job in [job for job in work.done if not job.found][-SHOWN:]:
        rows.add_row(job.label, "[green]done[/]", "")
    for failure in work.failed:
        rows.add_row(failure.job.label, "[red]failed[/]", "")
    for process in work.running:
        for number, job in enumerate(process.jobs):
            rows.add_row(job.label, "[bold]running[/]", "" if number else timing(process))
    for job in work.waiting[:SHOWN]:
        rows.add_row(job.label, "[dim]waiting[/]", "")
    found = sum(job.found for job in work.jobs)
    running = sum(len(process.jobs) for process in work.running)
    counts = f"{len(work.done)} done ({found} before), {running} running"
    return Group(rows, Text(f"{counts}, {len(work.failed)} failed, {len(work.waiting)} waiting"))


def timing(process: Process) -> str:
    """How long it has been running, and how long it says it will."""
    shown = str(timedelta(seconds=int(time.monotonic() - process.began)))
    said = LEFT.search(last_line(process.log))
    if said:
        ago = time.time() - process.log.stat().st_mtime
        shown += f", {timedelta(seconds=max(0, 60 * int(said[1]) + int(said[2]) - int(ago)))} left"
    return shown
