"""This project beside the tools that a user would pick instead: the same model, optimiser, batch, precision and data.

Each side runs in a process of its own and they take turns of two seconds, ours and the bare loop twice a round; ratios are
taken within a round. Peak memory is that of the whole process and its workers, with the same libraries loaded on all sides.

    python benchmarks/run.py                         # everything; 12 to 35 minutes on two cores
    python benchmarks/run.py mlm mae --peer huggingface --rounds 7     # into a temporary folder, for peers are missing
    python benchmarks/run.py --table --precision fp32    # what lies in benchmarks/results, as markdown
"""

import argparse
import datetime
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.cases.case import Case, beside_its_peers, case_named
from benchmarks.cases.startup import HELP_TARGET, STEP_TARGET, help_seconds, objectives, step_seconds
from benchmarks.gate import SideFailed, SideProcess, processes, until_stopped
from benchmarks.record import FIRST_STEP, HEADER, RESULTS, Record, markdown, read_all, rows, write
from errors import BadInput, nearest
from models.attention import has_bf16
from training.trainer import resolve_precision

TRAINED = ("mae", "mae_vit_b", "simclr", "mlm", "rtd", "span", "causal_lm", "clip", "data")
ROUNDS, SECONDS = 5, 2.0
WARM = 1  # steps that are not timed, besides those that find out how many a turn takes


def compare(name: str, case: Case, precision: str, chosen: argparse.Namespace, known: dict[str, Any]) -> Record:
    """Measure all sides of a case in turn."""
    work = case.at(precision, chosen.toy)
    if chosen.shards and name == "data":
        work = replace(work, pattern=chosen.shards)
    peers = {peer: entry for peer, entry in case.rivals().items() if not chosen.peer or peer in chosen.peer}
    sides = {"ours": case.ours} | {peer: entry.side for peer, entry in peers.items()}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    measured = {side: (beside_its_peers, (name, function, work, precision)) for side, function in sides.items()}
    with processes(measured) as started:
        for process in started.values():  # until all are warm, some are still importing
            process.run(WARM)
        steps = {side: steps_in(chosen.seconds, process) for side, process in started.items()}
        waited, training = started["ours"].told.get("waited"), 0.0
        for round_ in range(chosen.rounds):
            seconds: dict[str, list[float]] = {side: [] for side in sides}
            for side in turns(list(peers), backwards=round_ % 2 == 1):
                seconds[side].append(started[side].run(steps[side])["seconds"])
            for side, took in seconds.items():
                rates[side].append(work.units_a_step * steps[side] / statistics.mean(took))
            training += sum(seconds["ours"])
        facts = {side: process.told for side, process in started.items()}
    return {
        "case": name,
        "work": work.described(),
        "precision": precision,
        "date": datetime.date.today().isoformat(),
        "machine": known,
        "unit": work.unit,
        "units_a_step": work.units_a_step,
        "step_flops": facts["ours"].get("sample_flops", 0) * work.batch,
        "data_share": None if waited is None else (facts["ours"]["waited"] - waited) / training,
        "parameters": {side: fact.get("parameters") for side, fact in facts.items()},
        "peak_memory_bytes": {side: fact["peak_memory_bytes"] for side, fact in facts.items()},
        "rates": rates,
        "peers": {
            peer: {"called": entry.called, "target": entry.target_fp32 if precision == "fp32" else entry.target}
            for peer, entry in peers.items()
        },
    }


def turns(rivals: list[str], backwards: bool) -> list[str]:
    """The sides of a round in their order: ours and the bare loop both before the peers and after them.

    So a machine that slows down steadily favours neither of the two, between which the least difference is asked for, nor a
    single peer; two peers change places when the round goes backwards.
    """
    near = ["ours", *(rival for rival in rivals if rival == "bare")]
    peers = [rival for rival in rivals if rival != "bare"]
    return [*near, *(reversed(peers) if backwards else peers), *reversed(near)]


def steps_in(seconds: float, process: SideProcess) -> int:
    """How many steps take so long; what lies ready at the start (batches that were fetched ahead) must not decide."""
    steps = 1
    while True:
        took = process.run(steps)["seconds"]
        if took >= seconds / 4:
            return max(1, round(steps * seconds / took))
        steps *= 4


def startup(chosen: argparse.Namespace, known: dict[str, Any]) -> Record:
    """Seconds of `train.py --help`, and of every objective until its first step begins and until that is done.

    Raises:
        SideFailed: an objective has no first step, as is said when it is seen.
    """
    help_seconds()  # once for the disk's sake
    seconds = {"train.py --help": [help_seconds() for _ in range(chosen.rounds)]}
    targets = {"train.py --help": HELP_TARGET}
    warmed, done, failed = set(), {}, []
    for objective in ["mlm", "mae", "clip"] if chosen.toy else objectives():
        what = FIRST_STEP + objective
        try:
            if not warmed & {family := step_family(objective)}:
                step_seconds(objective)  # tokenises and indexes what is not in the cache yet
                warmed.add(family)
            begun, done[objective] = step_seconds(objective)
            seconds[what], targets[what] = [begun], STEP_TARGET
        except RuntimeError as error:
            print(f"{what}: {error}", file=sys.stderr, flush=True)
            failed.append(objective)
    if failed:
        raise SideFailed(f"not every objective got to its first step: {', '.join(failed)}")
    return {
        "case": "startup",
        "date": datetime.date.today().isoformat(),
        "machine": known,
        "seconds": seconds,
        "targets": targets,
        "done": done,
    }


def step_family(objective: str) -> str:
    """Objectives of one modality have one default data set, whose cache they share."""
    from conf import modality

    return modality("objective", objective)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", help=f"any of {', '.join((*TRAINED, 'startup'))}; by default all")
    parser.add_argument("--peer", action="append", help="compare with this one only; may come several times")
    parser.add_argument(
        "--precision", default="auto", help="auto (bf16 where the hardware has it; all in a table), fp32 or bf16"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a turn, at least one step")
    parser.add_argument("--toy", action="store_true", help="at toy size: shows that it runs, measures nothing")
    parser.add_argument("--shards", help="for the case data: brace pattern or glob of .tar with .jpg and .json members")
    parser.add_argument(
        "--results", type=Path,
        help="folder of the records; by default benchmarks/results, or a temporary one where less than all was asked for",
    )  # fmt: skip
    parser.add_argument("--table", action="store_true", help="print the records that there are as markdown, measure nothing")
    chosen = parser.parse_args()
    if chosen.precision not in ("auto", "fp32", "bf16"):
        parser.error(f"there is no precision '{chosen.precision}'; choices: auto, fp32, bf16")
    if chosen.rounds < 1 or not chosen.seconds > 0:
        parser.error(f"--rounds and --seconds must be above 0, not {chosen.rounds} and {chosen.seconds:g}")
    less = chosen.toy or chosen.peer or chosen.shards or chosen.rounds < ROUNDS or chosen.seconds < SECONDS
    folder = chosen.results or (Path(tempfile.mkdtemp()) if less and not chosen.table else RESULTS)
    if chosen.table:
        asked = chosen.precision
        try:
            records = read_all(folder)
        except BadInput as error:
            parser.error(str(error))
        print(markdown([found for found in records if asked in ("auto", found.get("precision", asked))]))
        return 0
    names = chosen.case or [*TRAINED, "startup"]
    for name in names:
        if name not in (*TRAINED, "startup"):
            parser.error(f"there is no case '{name}'; {nearest(name, [*TRAINED, 'startup'])}")
    for peer in chosen.peer or []:
        there = {rival for name in names if name != "startup" for rival in case_named(name).rivals()}
        if peer not in there:
            parser.error(f"there is no peer '{peer}' of {', '.join(names)}; {nearest(peer, sorted(there))}")
    precision = resolve_precision(chosen.precision, "cpu")
    known = machine.described(rates=not chosen.toy)
    print(announced(known, precision, chosen.precision), flush=True)
    return measure(names, precision, chosen, known, folder)


def measure(names: list[str], precision: str, chosen: argparse.Namespace, known: dict[str, Any], folder: Path) -> int:
    """Run the cases one after the other, a line each, and show the table; the exit code, 1 where a case failed."""
    table, failed = Table(*HEADER), False
    for number, name in enumerate(names, 1):
        began = time.perf_counter()
        try:
            if name == "startup":
                record = startup(chosen, known)
            else:
                case = case_named(name)
                if chosen.peer and not set(chosen.peer) & set(case.rivals()):
                    print(f"{name} has no such peer; {nearest(chosen.peer[0], case.rivals())}", file=sys.stderr)
                    continue
                record = compare(name, case, precision, chosen, known)
        except SideFailed as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            failed = True
            continue
        for row in rows(record):
            table.add_row(*row)
        path = write(record, folder)
        waiting = f", {record['data_share']:.1%} of our steps waiting for data" if record.get("data_share") is not None else ""
        seconds = time.perf_counter() - began
        print(f"{number} of {len(names)}: {name}, {seconds:.0f} s{waiting}, {path.name}", flush=True)
    Console(width=max(160, Console().width)).print(table)
    print(f"records: {folder}")
    return int(failed)


def announced(known: dict[str, Any], precision: str, asked: str) -> str:
    line = f"{known['cpu']}, {known['cores']} cores, {known['threads']} threads, {precision}"
    if asked == "auto" and not has_bf16("cpu"):
        line += " (auto: this CPU multiplies bfloat16 no faster)"
    if "matmul_flops" in known:
        products = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in known["matmul_flops"].items())
        line += f"; matrix products {products} GFLOP/s, copies {known['copy_bytes'] / 1e9:.1f} GB/s"
    return line


if __name__ == "__main__":
    sys.exit(until_stopped(main))
