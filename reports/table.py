"""Many results as one table: objectives by protocols, mean, spread and interval over seeds, and what it cost."""

from pathlib import Path

from rich.table import Table

from errors import BadInput
from reports.result import Result, read_result
from reports.rows import Measured, baseline_first, mean_cost
from reports.scores import column


def collect(folder: Path) -> tuple[list[Result], list[str]]:
    """(transfer results below a folder, one line for each file that cannot be read).

    Of two results of the same encoder, protocol, data, labels and seed the newer counts.

    Raises:
        BadInput: there are no results.
    """
    if not folder.is_dir():
        raise BadInput(f"report='{folder}' is not a folder")
    results: dict[tuple, Result] = {}
    broken = []
    for path in sorted(folder.rglob("result.json"), key=lambda path: path.stat().st_mtime):
        try:
            result = read_result(path)
        except BadInput as error:
            broken.append(str(error))
            continue
        if result.transfer is not None:
            transfer = result.transfer
            results[
                result.objective, result.model, transfer["checkpoint"], transfer["protocol"], transfer["data"],
                transfer["label_fraction"], result.seed, transfer["seed"],
            ] = result  # fmt: skip
    if not results:
        found = f" ({'; '.join(broken)})" if broken else ""
        raise BadInput(f"'{folder}' holds no transfer results{found}; make some: python finetune.py checkpoint=latest")
    return list(results.values()), broken


def accuracy_table(results: list[Result]) -> Table:
    """One row an objective, model and data set, one column a protocol: mean ± sd (seeds) in per cent, then the 95 % interval.

    No number is marked as a winner: what can be told apart is said in words (`reports.verdict`).
    """
    columns = sorted({column(result) for result in results})
    rows: dict[tuple[str, str, str], dict[str, list[Result]]] = {}
    for result in results:
        row = rows.setdefault((result.objective, result.model, result.transfer["data"]), {})
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
