"""Image-text pairs listed in a table: .csv, .tsv, .jsonl or .parquet, a path and a caption a row."""

import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.classes import Labels, numbered
from datamodules.corpus import clean
from datamodules.files import FolderMembers
from datamodules.image_text import Captioned, ImageTextData
from datamodules.samples import Pictures, usual_size
from datamodules.tables import SUFFIXES, Row, check_columns, read_table
from datamodules.vocabulary import Vocabulary
from errors import BadInput
from ranges import Count, Seed, ShareBelow1

log = logging.getLogger(__name__)

WITHOUT_CAPTION, WITHOUT_PATH = "rows without a caption skipped", "rows without a path skipped"
NOT_THERE, OTHER_LABEL = "pictures that are not there skipped", "rows with another label than their picture's first"


class Pairs(ImageTextData):
    """Pictures with captions in tables. A picture may have several: in rows that repeat its path, or as a list in a row.

    Args:
        files: the table of training pairs; paths in it are relative to its own folder.
        val_files, test_files: the tables of the other splits; None carves them from the training pictures.
        path, caption, label: names of the columns; `label` None for none.
        classes: a file of class names, one a line, where labels are numbers; None names classes as labels are written.
        image_size: None measures the first pictures and takes their median shorter side, at most 224 px.
    Other arguments as in `ImageTextData`.

    Attributes:
        problems: what in the tables could not be used -> how often.

    Raises:
        BadInput: a table cannot be used, or two list the same picture.
    """

    def __init__(
        self,
        files: str,
        tokenizer: dict | Vocabulary,
        val_files: str | None = None,
        test_files: str | None = None,
        path: str = "path",
        caption: str = "caption",
        label: str | None = None,
        classes: str | None = None,
        image_size: Count | None = None,
        batch_size: Count = 128,
        max_length: Count = 32,
        fixed_length: bool = False,
        val_fraction: ShareBelow1 = 0.1,
        split_seed: Seed = 0,
        cache: str | None = None,
    ):
        problems: Counter = Counter()
        given = {"train": ("files", files), "val": ("val_files", val_files), "test": ("test_files", test_files)}
        parts = {
            split: _collected(table, f"datamodule.{setting}", (path, caption, label), problems)
            for split, (setting, table) in given.items()
            if table or split == "train"
        }
        folders = {split: _folder(given[split][1]) for split in parts}
        _check_disjoint(folders, parts)
        for problem, count in problems.items():
            log.warning("'pairs': %d %s", count, problem)
        self.problems = dict(problems)
        written = {split: Labels.of(listed.label for listed in part.values()) for split, part in parts.items()}
        labels, class_names = numbered(written, classes, "pairs")
        splits = {}
        for split, part in parts.items():
            pictures = Pictures(FolderMembers(folders[split], tuple(part)), len(part), labels[split])
            splits[split] = Captioned.listed(pictures, [tuple(listed.captions) for listed in part.values()])
        super().__init__(
            "pairs",
            splits,
            class_names,
            tokenizer,
            image_size or usual_size(splits["train"].pictures),
            batch_size,
            max_length,
            fixed_length,
            val_fraction,
            split_seed,
            cache=cache,
        )


@dataclass
class _Listed:
    """What a table says of a picture."""

    captions: list[str] = field(default_factory=list)
    label: str | None = None


def _collected(table: str, setting: str, columns: tuple[str, str, str | None], problems: Counter) -> dict[str, _Listed]:
    """path -> what its rows say, in the order in which pictures first come; those that are not there are left out."""
    path, caption, label = columns
    folder = _folder(table)
    by_path: dict[str, _Listed] = {}
    for row in _rows(table, setting, [column for column in columns if column], problems):
        texts = row.get(caption) if isinstance(row.get(caption), list) else [row.get(caption)]
        texts = [clean(text, problems)[0].strip() for text in texts if isinstance(text, str)]
        texts = [text for text in texts if text]
        name = row.get(path)
        if not isinstance(name, str) or not name.strip():
            problems[WITHOUT_PATH] += 1
        elif not texts:
            problems[WITHOUT_CAPTION] += 1
        else:
            whole = os.path.normpath(os.path.join(folder, name.strip()))  # one name, however it is written
            listed = by_path.setdefault(whole.removeprefix(folder + os.sep), _Listed())
            listed.captions += texts
            written = "" if label is None or row.get(label) is None else str(row[label]).strip()
            problems[OTHER_LABEL] += bool(written) and listed.label not in (None, written)
            listed.label = listed.label or written or None
    there = {name: listed for name, listed in by_path.items() if os.path.isfile(os.path.join(folder, name))}
    if not there:
        first = f"'{os.path.join(folder, next(iter(by_path)))}'" if by_path else "there is no row with a path and a caption"
        raise BadInput(f"{setting}='{table}' lists no picture that is there: {first}")
    problems[NOT_THERE] += len(by_path) - len(there)
    for problem in [problem for problem, count in problems.items() if not count]:
        del problems[problem]
    return there


def _check_disjoint(folders: dict[str, str], parts: dict[str, dict[str, _Listed]]) -> None:
    seen: dict[str, str] = {}
    for split, part in parts.items():
        for name in part:
            path = os.path.normpath(os.path.join(folders[split], name))
            if seen.setdefault(path, split) != split:
                raise BadInput(f"'{path}' is in two splits: {seen[path]} and {split}")


def _folder(table: str) -> str:
    return os.path.realpath(Path(table).expanduser().parent)


def _rows(table: str, setting: str, columns: list[str], problems: Counter) -> list[Row]:
    if not table:
        raise BadInput(f"datamodule=pairs needs {setting}=<a {', '.join(SUFFIXES)} of paths and captions>")
    suffix = Path(table).suffix.lower()
    if suffix not in SUFFIXES:
        raise BadInput(f"{setting}='{table}' is none of the known kinds: {', '.join(SUFFIXES)}")
    try:
        raw = Path(table).expanduser().read_bytes()
    except OSError as error:
        raise BadInput(f"{setting}='{table}' cannot be read: {error.strerror}") from error
    rows = read_table(raw, suffix, problems, name=table)
    check_columns(rows, columns, table, ("path", "caption", "label")[: len(columns)])
    return rows
