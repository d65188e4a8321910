"""What a training step spends outside the work itself: the trainer's loop, callbacks, logging, the checks of every step.

The parts that a bare loop has too (batches, the objective's forward pass, backward, the optimiser's kernel) are timed within
`train.py`'s own Trainer; what is left of the steps is the framework's. The drift of a machine, which reaches the ratios of two
processes in `benchmarks/run.py`, is the same for all parts here. What a trainer does to the speed of the parts themselves, as
by the state in which it leaves the memory, is not seen here; only those ratios can show it.

    python benchmarks/overhead.py                # every case of run.py that trains; about six minutes on two cores
    python benchmarks/overhead.py mlm clip
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from rich.console import Console
from rich.progress import track

from benchmarks.cases.case import case_named
from benchmarks.gate import Gate, SideFailed, SideProcess, until_stopped
from benchmarks.run import TRAINED, WARM, steps_in
from benchmarks.sides import ours
from benchmarks.works import Batches, Work
from errors import nearest
from reports.markdown import plain_table
from training.trainer import resolve_precision

CASES = tuple(name for name in TRAINED if name != "data")  # which trains nothing
UPDATES = ("_fused_adamw_", "_fused_sgd_")
PARTS = ("batch", "forward", "backward", "update")


class Timed:
    """A gate that says, besides the seconds of all, how long each part has taken so far."""

    def __init__(self, gate: Gate):
        self.gate, self.describe, self.seconds = gate, gate.describe, dict.fromkeys(PARTS, 0.0)

    def step(self, **facts: float) -> None:
        self.gate.step(**facts, **self.seconds)

    def timing(self, part: str, function: Callable) -> Callable:
        @wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[part] += time.perf_counter() - began

        return timed


def ours_in_parts(gate: Gate, work: Work, precision: str) -> None:
    """`sides.ours` with clocks around the parts. On a CPU: kernels of a GPU run on behind the clock."""
    timed, kind = Timed(gate), type(work.build())
    parts = [(Batches, "batch", "batch"), (kind, "forward", "forward"), (torch.Tensor, "backward", "backward")]
    parts += [(torch, update, "update") for update in UPDATES]
    with ExitStack() as clocks:
        for owner, name, part in parts:
            clocks.enter_context(patch.object(owner, name, timed.timing(part, getattr(owner, name))))
        ours(timed, work, precision)


def measured(name: str, precision: str, seconds: float, toy: bool) -> dict[str, float]:
    """Seconds of a step and, of all its parts and of the rest, the shares.

    Raises:
        SideFailed: the training ended by itself.
    """
    with SideProcess(name, ours_in_parts, (case_named(name).at(precision, toy), precision)) as process:
        process.run(WARM)
        steps = 1 if toy else steps_in(seconds, process)
        before, after = process.run(1), process.run(steps)
    shares = {part: (after[part] - before[part]) / after["seconds"] for part in PARTS}
    return {"step": after["seconds"] / steps} | shares | {"the rest": 1.0 - sum(shares.values())}


def cases_asked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line of a script that looks at cases one by one: "case", of which there are some, and "toy"."""
    parser.add_argument("case", nargs="*", help=f"any of {', '.join(CASES)}; by default all")
    parser.add_argument("--toy", action="store_true", help="at toy size: shows that it runs, measures nothing")
    chosen = parser.parse_args()
    for name in chosen.case:
        if name not in CASES:
            parser.error(f"there is no case '{name}'; {nearest(name, CASES)}")
    chosen.case = chosen.case or [*CASES]
    return chosen


def watched_cases(names: list[str]) -> Iterable[str]:
    """The same with a progress bar beside the table."""
    return track(names, "measuring", console=Console(stderr=True), transient=True)


@contextmanager
def table_of(*header: str) -> Iterator[list[list[str]]]:
    """Rows to be added to, which are printed at the end, be it an early one; a side that fails is such an end."""
    rows: list[list[str]] = []
    try:
        yield rows
    except SideFailed as error:
        raise SystemExit(str(error)) from error
    finally:
        if rows:
            print(plain_table(header, rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each case, at least one step")
    chosen = cases_asked(parser)
    precision = resolve_precision("auto", "cpu")
    with table_of("case", "seconds a step", *PARTS, "the rest") as rows:
        for name in watched_cases(chosen.case):
            found = measured(name, precision, chosen.seconds, chosen.toy)
            rows.append([f"{name}, {precision}", f"{found.pop('step'):.3g}", *(f"{share:.1%}" for share in found.values())])
    return 0


if __name__ == "__main__":
    sys.exit(until_stopped(main))
