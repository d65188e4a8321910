"""Rows in files: .tsv (no quoting) and .csv with a header or given column names, .jsonl and .parquet."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest

from datamodules.text_sources import MALFORMED, decode, parquet_file
from errors import BadInput

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")
Row = dict[str, object]


def read_table(
    raw: bytes, suffix: str, problems: Counter, header: list[str] | None = None, name: str = "the table"
) -> list[Row]:
    """Rows as column -> value; those with too few or too many fields are counted and left out.

    Args:
        raw: the file.
        suffix: one of SUFFIXES.
        problems: counted into.
        header: column names where the file does not begin with them.
        name: of the file, for messages.
    """
    if suffix == ".parquet":
        with parquet_file(io.BytesIO(raw), name) as table:
            return table.read().to_pylist()
    text = decode(raw, problems).removeprefix("\ufeff")
    if suffix == ".jsonl":
        return list(_objects(text, problems))
    if suffix == ".tsv":
        fields = (line.removesuffix("\r").split("\t") for line in text.split("\n") if line.strip())
    else:
        fields = _csv_rows(text, len(header or ()), problems)
    rows = []
    for row in fields:
        if header is None:
            header = [name.strip() for name in row]
        elif len(row) == len(header):
            rows.append(dict(zip(header, row, strict=True)))
        else:
            problems[MALFORMED] += 1
    return rows


def _csv_rows(text: str, width: int, problems: Counter) -> Iterator[list[str]]:
    """The fields of each row; a stray quote, closed only in another row or nowhere, costs its own line and none after it.

    Args:
        width: fields that a row should have; 0 for as many as the first one.
        problems: such lines are counted into.
    """
    csv.field_size_limit(1 << 30)
    lines = [*io.StringIO(text, newline="").readlines(), "\n"]  # the last an empty row, unless a quote is still open
    begin = 0
    while begin < len(lines):
        start, reader = begin, csv.reader(islice(lines, begin, None))
        for row in reader:
            width, end = width or len(row), start + reader.line_num
            if end > begin + 1 and (len(row) != width or end == len(lines)):
                problems[MALFORMED] += 1
                begin += 1
                break
            if row:
                yield row
            begin = end


def _objects(text: str, problems: Counter) -> Iterator[Row]:
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            yield row
        else:
            problems[MALFORMED] += 1


def check_columns(rows: list[Row], columns: list[str], name: str, settings: Sequence[str] = ()) -> None:
    """Raises BadInput where there are no rows, or a column is in none of the first of them.

    Args:
        settings: that name the columns, one each; none where it is not a user who names them.
    """
    if not rows:
        raise BadInput(f"'{name}' has no rows")
    there = list(dict.fromkeys(column for row in rows[:100] for column in row))
    for column, setting in zip_longest(columns, settings):
        if column not in there:
            other = f"; name another by datamodule.{setting}=<column>" if setting else ""
            raise BadInput(f"'{name}' has no column '{column}'{other}; columns: {', '.join(map(str, there))}")
