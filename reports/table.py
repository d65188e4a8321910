"""Many results as one table: objectives by protocols, mean and standard deviation over seeds, and what it cost."""

from pathlib import Path
from statistics import mean, stdev

from rich.table import Table

from errors import BadInput
from reports.result import Result, read_result

BASELINES = ("random", "supervised")  # first rows of every table


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
    """One row an objective, model and data set, one column a protocol: accuracy in per cent, mean ± sd (seeds)."""
    columns = sorted({_column(result) for result in results})
    rows: dict[tuple[str, str, str], dict[str, list[Result]]] = {}
    for result in results:
        row = rows.setdefault((result.objective, result.model, result.transfer["data"]), {})
        row.setdefault(_column(result), []).append(result)
    table = Table(title="test accuracy, %", title_justify="left")
    for name in ("objective", "model", "data", *columns, "samples", "FLOPs", "seconds"):
        table.add_column(name, justify="left" if name in ("objective", "model", "data") else "right", no_wrap=True)
    for key in sorted(rows, key=lambda key: (key[0] not in BASELINES, key)):
        cells = [_accuracy(rows[key].get(column, [])) for column in columns]
        spent = next(iter(rows[key].values()))[0].budget_spent
        cost = [
            f"{spent[name]:,.0f}" if name != "flops" else f"{spent[name]:.1e}"
            for name in ("samples", "flops", "seconds")
            if spent
        ]
        table.add_row(*key, *cells, *(cost or ["0", "0", "0"]))
    return table


def _column(result: Result) -> str:
    fraction = result.transfer["label_fraction"]
    return result.transfer["protocol"] + (f" @ {fraction:g}" if fraction != 1 else "")


def _accuracy(results: list[Result]) -> str:
    if not results:
        return "-"
    accuracies = [100 * result.metrics[result.transfer.get("metric", "accuracy")] for result in results]
    spread = f" ± {stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
    return f"{mean(accuracies):.1f}{spread} ({len(accuracies)})"
