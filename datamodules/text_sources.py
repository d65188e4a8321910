"""Files of text: .txt, .jsonl and .parquet, each also as .gz, or in a .zip; read as streams, never whole."""

import gzip
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from datamodules.corpus import INVALID, PIECE, Document
from datamodules.files import DAMAGE
from datamodules.paths import matching, names_in
from errors import BadInput

KINDS = (".txt", ".jsonl", ".parquet")
MALFORMED, WITHOUT_TEXT = "malformed lines skipped", "records without text skipped"
_boundary = {"line": re.compile(r"\n"), "paragraph": re.compile(r"\n(?:[ \t]*\n)+")}


@dataclass(frozen=True)
class Source:
    """One file, or one member of a zip.

    Attributes:
        name: for messages.
        kind: one of KINDS.
        open: -> its bytes, decompressed.
    """

    name: str
    kind: str
    open: Callable[[], BinaryIO]


def files_of(patterns: str | list[str]) -> list[Path]:
    """The files that globs match, sorted, each once."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns or [])
    if not patterns:
        raise BadInput("datamodule=text_files needs datamodule.files=<a glob of .txt, .jsonl, .parquet, .gz or .zip files>")
    found: dict[Path, None] = {}
    for pattern in patterns:
        paths = [Path(path) for path in matching(pattern)]
        if any(path.is_dir() for path in paths):
            example = Path(pattern) / "**" / "*.txt"
            raise BadInput(f"datamodule.files='{pattern}' is a folder; say which files in it: '{example}'")
        if not any(path.is_file() for path in paths):
            raise BadInput(f"datamodule.files='{pattern}' matches no file")
        found |= dict.fromkeys(paths)
    return list(found)


def sources_of(path: Path) -> list[Source]:
    """What there is to read in a file; of a zip the members of a known kind."""
    if path.suffix.lower() != ".zip":
        return [Source(str(path), _kind(path.name, str(path)), lambda: _plain(path.name, open(path, "rb")))]
    try:
        names = sorted(name for name in names_in(str(path)) if _suffix(name) in KINDS)
    except DAMAGE as error:
        raise BadInput(f"'{path}' is not a readable .zip: {error}") from error
    if not names:
        raise BadInput(f"'{path}' holds no {', '.join(KINDS)} files")
    return [Source(f"{path}/{name}", _kind(name, name), _member(path, name)) for name in names]


def _member(path: Path, name: str) -> Callable[[], BinaryIO]:
    return lambda: _plain(name, zipfile.ZipFile(path).open(name))


def _plain(name: str, stream: BinaryIO) -> BinaryIO:
    return gzip.open(stream) if name.lower().endswith(".gz") else stream


def _suffix(name: str) -> str:
    return PurePosixPath(name.lower().removesuffix(".gz")).suffix


def _kind(name: str, shown: str) -> str:
    if _suffix(name) not in KINDS:
        raise BadInput(f"'{shown}' is none of the known kinds: {', '.join(KINDS)}, each also as .gz or in a .zip")
    return _suffix(name)


def documents_of(source: Source, document: str, column: str, problems: Counter) -> Iterator[Document]:
    """The documents of a source: its records, or of plain text the whole file, its lines or its paragraphs."""
    with _readable(source), source.open() as stream:
        if source.kind == ".parquet":
            yield from _parquet(source, stream, column, problems)
        elif source.kind == ".jsonl":
            yield from _jsonl(source, stream, column, problems)
        elif document == "file":
            yield Document(_texts(source, stream, problems))
        else:
            numbered = _numbered(_texts(source, stream, problems), _boundary[document])
            for _, pieces in groupby(numbered, key=lambda pair: pair[0]):
                yield Document(text for _, text in pieces)


@contextmanager
def _readable(source: Source) -> Iterator[None]:
    """What a broken file raises, in one line that names it; pieces are read after their document was handed out."""
    try:
        yield
    except DAMAGE as error:
        raise BadInput(f"'{source.name}' cannot be read: {' '.join(str(error).split())}") from error


def _texts(source: Source, stream: BinaryIO, problems: Counter) -> Iterator[str]:
    """A stream as text in pieces that begin with white space where there is any; line ends become \\n."""
    mark = "\ufeff"
    with _readable(source):
        for raw in _raw_pieces(stream):
            yield decode(raw, problems).removeprefix(mark).replace("\r\n", "\n").replace("\r", "\n")
            mark = ""


def _raw_pieces(stream: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while raw := stream.read(PIECE):
        raw = rest + raw
        end = _last_break(raw)
        if end:
            yield raw[:end]
        rest = raw[end:]
    yield rest


def _last_break(raw: bytes) -> int:
    """Where the last white space begins that has something before it, or else the last character."""
    last = max(raw.rfind(b" "), raw.rfind(b"\n"))
    end = len(raw[: last + 1].rstrip(b" \t\r\n"))
    if end == 0:
        end = len(raw) - 1
        while end > max(0, len(raw) - 4) and raw[end] & 0xC0 == 0x80:  # inside a character of UTF-8
            end -= 1
    return end


def decode(raw: bytes, problems: Counter) -> str:
    """The text; what is not UTF-8 is replaced by U+FFFD and counted."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        text = raw.decode(errors="replace")
        problems[INVALID] += text.count("\ufffd") - raw.count("\ufffd".encode())
        return text


def _numbered(texts: Iterator[str], boundary: re.Pattern) -> Iterator[tuple[int, str]]:
    """(number of the document, piece)."""
    number = 0
    for text in texts:
        first, *others = boundary.split(text)
        yield number, first
        for part in others:
            number += 1
            yield number, part


def _jsonl(source: Source, stream: BinaryIO, column: str, problems: Counter) -> Iterator[Document]:
    found = False
    for number, line in enumerate(stream):
        if not line.strip():
            continue
        try:
            record = json.loads(decode(line, problems).removeprefix("" if number else "\ufeff"))
        except ValueError:
            problems[MALFORMED] += 1
            continue
        if not isinstance(record, dict):
            problems[MALFORMED] += 1
            continue
        found |= column in record
        if not found:
            raise _no_column(source, column, record)
        if isinstance(record.get(column), str):
            yield Document([record[column]])
        else:
            problems[WITHOUT_TEXT] += 1


def _parquet(source: Source, stream: BinaryIO, column: str, problems: Counter) -> Iterator[Document]:
    with parquet_file(stream, source.name) as table:
        if column not in table.schema_arrow.names:
            raise _no_column(source, column, table.schema_arrow.names)
        for rows in table.iter_batches(batch_size=256, columns=[column]):
            for text in rows.column(0).to_pylist():
                if isinstance(text, str):
                    yield Document([text])
                else:
                    problems[WITHOUT_TEXT] += 1


@contextmanager
def parquet_file(stream: BinaryIO, name: str) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`; what is wrong with it while it is open becomes one line that names it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BadInput(f"'{name}' needs the package pyarrow: pip install \"headstart[text]\"") from error
    try:
        yield pyarrow.parquet.ParquetFile(stream if stream.seekable() else io.BytesIO(stream.read()))
    except pyarrow.ArrowException as error:
        raise BadInput(f"'{name}' is not a readable parquet file: {' '.join(str(error).split())}") from error


def _no_column(source: Source, column: str, columns: object) -> BadInput:
    return BadInput(f"'{source.name}' has no text in a column '{column}'; columns: {', '.join(map(str, columns))}")
