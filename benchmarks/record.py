"""What was measured, as a plain JSON record a case, and the table that is made of such records alone."""

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.machine import fewest_seconds
from errors import BadInput
from reports.markdown import plain_table

RESULTS = Path(__file__).parent / "results"
HEADER = ("case", "ours", "beside", "theirs", "ours / theirs (range)", "wanted", "memory", "bound")
FIRST_STEP = "first step of "  # and the objective, among the seconds of the record of start-up
Record = dict[str, Any]


def ratio(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """(median, lowest, highest) of the ratios within rounds: what slows a whole round slows both sides."""
    found = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return statistics.median(found), min(found), max(found)


def bound(record: Record) -> float | None:
    """Units a second that no step of this work can exceed here; None where that is not known."""
    flops, machine = record.get("step_flops"), record["machine"]
    if not flops or "matmul_flops" not in machine:
        return None
    return record["units_a_step"] / fewest_seconds(flops, record["parameters"]["ours"], machine, record["precision"])


def rows(record: Record) -> list[list[str]]:
    """Lines of the table, as cells under HEADER."""
    if record["case"] == "startup":
        return startup_rows(record)
    rates, unit, found = record["rates"], record["unit"], []
    for name, peer in record["peers"].items():
        median, low, high = ratio(rates["ours"], rates[name])
        missed = median < peer["target"]
        highest = bound(record) if missed and name != "bare" else None
        mine = statistics.median(rates["ours"])
        found.append(
            [
                f"{record['work']}, {record['precision']}",
                f"{three_digits(mine)} {unit}/s",
                peer["called"],
                three_digits(statistics.median(rates[name])),
                f"{median:.2f} ({low:.2f} to {high:.2f})",
                wanted(">=", peer["target"], missed) if peer["target"] else "",
                memory(record, name),
                f"{three_digits(highest)} ({mine / highest:.0%} reached)" if highest else "",
            ]
        )
    return found


def startup_rows(record: Record) -> list[list[str]]:
    """One line for what is no first step; one for all first steps, how long until they begin, and one for what they take."""
    medians = {what: statistics.median(seconds) for what, seconds in record["seconds"].items()}
    first = {what.removeprefix(FIRST_STEP): seconds for what, seconds in medians.items() if what.startswith(FIRST_STEP)}
    lines = [
        [f"startup: {what}", f"{seconds:.1f} s", wanted("<=", record["targets"][what], seconds > record["targets"][what], " s")]
        for what, seconds in medians.items()
        if not what.startswith(FIRST_STEP)
    ]
    if first:
        target = record["targets"][FIRST_STEP + next(iter(first))]
        late = sum(seconds > target for seconds in first.values())
        lines.append([f"startup: to the first step, {len(first)} objectives", spread(first), wanted("<=", target, late, " s")])
        lines.append(
            ["startup: that step itself besides", spread({name: record["done"][name] - first[name] for name in first}), ""]
        )
    return [[name, took, "", "", "", verdict, "", ""] for name, took, verdict in lines]


def spread(seconds: dict[str, float]) -> str:
    """The median, and the slowest by name."""
    slowest = max(seconds, key=seconds.__getitem__)
    return f"median {statistics.median(seconds.values()):.1f} s, {slowest} {seconds[slowest]:.1f} s"


def wanted(relation: str, target: float, missed: int, unit: str = "") -> str:
    """`missed`: whether, or by how many."""
    by = f" by {missed}" if missed > 1 else ""
    return f"{relation} {target:g}{unit}" + (f", missed{by}" if missed else "")


def three_digits(number: float) -> str:
    """6.71, 86.1, 5,466."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def memory(record: Record, name: str) -> str:
    """Our peak beside a peer's, and whether it is higher, which it should not be."""
    mine, other = (record["peak_memory_bytes"][side] / 1e9 for side in ("ours", name))
    return f"{mine:.2f} / {other:.2f} GB" + (", more" if name != "bare" and mine > other else "")


def markdown(records: list[Record]) -> str:
    """The table for a README."""
    return plain_table(HEADER, [row for record in records for row in rows(record)])


def write(record: Record, folder: Path) -> Path:
    """One file for a case at a precision; a later measurement takes its place."""
    path = folder / "-".join(part for part in (record["case"], record.get("precision")) if part)
    path = path.with_suffix(".json")
    write_json(record, path)
    return path


def write_json(facts: dict[str, Any], path: Path) -> None:
    """Whole or not at all; what stands there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def read_all(folder: Path = RESULTS) -> list[Record]:
    """The records of `run.py` in a folder.

    Raises:
        BadInput: there are none, or one is no JSON.
    """
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise BadInput(f"the record '{path}' is cut or damaged ({error}); measure it again, or delete it") from error
    found = [record for record in records if "case" in record]
    if not found:
        raise BadInput(f"there are no records in '{folder}'; python benchmarks/run.py --results {folder} makes some")
    return found
