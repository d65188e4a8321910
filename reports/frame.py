"""Every transfer result as one flat row, for whoever goes on with a table of their own: results.csv and results.parquet."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from reports.result import Result


def frame_of(results: Iterable[Result]) -> pd.DataFrame:
    """One row a result; columns are the fields of docs/result.md, nested ones with a dot: "budget_spent.flops".

    In a transfer record `budget_spent` is what pre-training cost, its seconds included; `seconds` is the protocol's own time.
    Random initialisation costs 0 of everything that others spent.
    """
    frame = pd.json_normalize([asdict(result) for result in results])
    spent = [name for name in frame.columns if name.startswith("budget_spent.")]
    frame.loc[frame["objective"] == "random", spent] = 0
    for name in frame.select_dtypes("object"):
        kinds = {type(value) for value in frame[name].dropna()}
        if len(kinds) > 1 or kinds & {list, dict}:  # a column of a file has one type
            frame[name] = frame[name].map(str, na_action="ignore").astype("string")
    return frame


def write_frame(frame: pd.DataFrame, folder: Path) -> None:
    """Write results.csv and results.parquet."""
    frame.to_csv(folder / "results.csv", index=False)
    frame.to_parquet(folder / "results.parquet", index=False)
