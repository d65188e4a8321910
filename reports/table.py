"""Many results as one table: objectives by protocols, mean, spread and interval over seeds, and what it cost."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from conf.pasted import command_line
from errors import BadInput
from reports.apart import KINDS, told_apart
from reports.result import Result, read_result
from reports.rows import Measured, baseline_first
from reports.scores import column, mean_cost, model, objective, task

NEEDED = {"protocol": str, "data": str, "checkpoint": str, "seed": int, "label_fraction": int | float}  # of a test -> kind
OPTIONAL = {
    "metric": str, "num_labels": int | float, "num_test": int, "continued_from": str, "continued_data": str,
    **dict.fromkeys(("apart", "built_on", *KINDS.values()), dict),
}  # fmt: skip
UNSAID = ""


def collect(folder: Path) -> tuple[list[Result], list[str]]:
    """(transfer results below a folder, one line for each file that cannot be compared).

    Raises:
        BadInput: there are no results.
    """
    if not folder.is_dir():
        raise BadInput(f"report='{folder}' is not a folder")
    results, broken = comparable(folder.rglob("result.json"))
    if not results:
        found = f" ({'; '.join(broken)})" if broken else ""
        make = command_line("finetune.py", checkpoint="latest")
        raise BadInput(f"'{folder}' holds no transfer results{found}; make some: {make}")
    return results, broken


def comparable(paths: Iterable[Path]) -> tuple[list[Result], list[str]]:
    """(transfer results of these files, one line for each file that cannot be compared).

    Of two results of the same encoder, protocol, data, labels and seed the newer counts; `reports.apart` names the others
    apart.
    """
    results: dict[tuple, dict[str, Result]] = {}
    broken = []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        try:
            result = read_result(path)
        except BadInput as error:
            broken.append(str(error))
            continue
        lacking = _lacking(result)
        if lacking:
            broken.append(f"'{path}' cannot be compared: it has no {' and no '.join(lacking)}")
        elif result.transfer is not None:
            transfer = result.transfer
            same = results.setdefault((
                result.objective, result.model, os.path.realpath(transfer["checkpoint"]), transfer["protocol"],
                transfer["data"], transfer["label_fraction"], result.seed, transfer["seed"],
            ), {})  # fmt: skip
            same.pop(UNSAID, None)  # of a version that did not record settings: replaced by whatever is newer
            same[_settings(transfer)] = result
    return told_apart([result for same in results.values() for result in same.values()]), broken


def _settings(transfer: dict[str, Any]) -> str:
    """What two tests of one name must have in common to be the same."""
    if any(settings not in transfer for settings in KINDS.values()):
        return UNSAID
    return json.dumps([transfer[settings] for settings in KINDS.values()], sort_keys=True)


def _lacking(result: Result) -> list[str]:
    """What a transfer record must have to be compared, and has not."""
    if result.transfer is None:
        return []
    known = NEEDED | {name: kind for name, kind in OPTIONAL.items() if result.transfer.get(name) is not None}
    lacking = [f"transfer.{name}" for name, kind in known.items() if not isinstance(result.transfer.get(name), kind)]
    name = result.transfer.get("metric", "accuracy")
    found = result.metrics.get(name) if isinstance(name, str) else None
    finite = isinstance(found, int | float) and math.isfinite(found)
    return lacking if finite else [*lacking, f"finite metrics.{name}"]


def accuracy_table(results: list[Result]) -> Table:
    """One row an objective, model and data set, one column a protocol: mean ± sd (seeds) in per cent, then the 95 % interval.

    No number is marked as a winner: what can be told apart is said in words (`reports.verdict`).
    """
    columns = sorted({column(result) for result in results})
    rows: dict[tuple[str, str, str], dict[str, list[Result]]] = {}
    for result in results:
        row = rows.setdefault((objective(result), model(result), task(result)), {})
        row.setdefault(column(result), []).append(result)
    table = Table(title="test accuracy, %", title_justify="left")
    for name in ("objective", "model", "data", *columns, "samples", "FLOPs", "seconds"):
        table.add_column(name, justify="left" if name in ("objective", "model", "data") else "right", no_wrap=True)
    for key in sorted(rows, key=lambda key: (baseline_first(key[0]), key)):
        cells = [_accuracy(rows[key].get(name, [])) for name in columns]
        runs = [result for found in rows[key].values() for result in found]
        table.add_row(*key, *cells, *(_cost(runs, name) for name in ("samples", "flops", "seconds")))
    return table


def _accuracy(results: list[Result]) -> str:
    if not results:
        return "-"
    score = Measured.of(results)
    spread = f" ± {100 * score.spread:.1f}" if score.spread is not None else ""
    cell = f"{100 * score.mean:.1f}{spread} ({len(score.seeds)})"
    return cell if score.interval is None else f"{cell}\n{100 * score.interval[0]:.1f} to {100 * score.interval[1]:.1f}"


def _cost(results: list[Result], name: str) -> str:
    """Mean over runs; "-" where no record says."""
    spent = mean_cost(results, name)
    if spent is None:
        return "-"
    return f"{spent:.1e}" if name == "flops" and spent else f"{spent:,.0f}"
