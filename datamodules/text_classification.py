"""Labelled texts of one's own: .tsv, .csv, .jsonl or .parquet files, single sentences or pairs."""

import logging
import os
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from datamodules.classes import class_order
from datamodules.files import DAMAGE
from datamodules.paths import names_in
from datamodules.tables import SUFFIXES, Row, check_columns, read_table
from datamodules.text_task import Texts, TextTask
from errors import BadInput, nearest
from ranges import Count, Seed, ShareBelow1

log = logging.getLogger(__name__)

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
INCOMPLETE = "rows without a text or a label skipped"


class TextClassification(TextTask):
    """A task in files.

    Args:
        root: a folder or .zip with train, and where there are some val and test, of one of the `SUFFIXES`, side by side or each
            in a folder of the same name; or one such file.
        task: the folder in `root` that holds them, where there are several.
        text, text_pair, label: names of the columns; `text_pair` None for single sentences.
    Other arguments as in `TextTask`; `selection: spearman` makes the labels numbers.
    """

    def __init__(
        self,
        root: str,
        tokenizer: dict,
        task: str | None = None,
        text: str = "text",
        text_pair: str | None = None,
        label: str = "label",
        selection: str = "accuracy",
        max_length: Count = 128,
        batch_size: Count = 32,
        val_fraction: ShareBelow1 = 0.1,
        split_seed: Seed = 0,
        cache: str | None = None,
    ):
        if not root:
            raise BadInput("datamodule=text_classification needs datamodule.root=<a folder, .zip or file of labelled texts>")
        root = os.path.expanduser(root)
        problems: Counter = Counter()
        columns = [text, text_pair] if text_pair else [text]
        rows = {}
        for split, (name, raw) in _files(root, task).items():
            found = read_table(raw, PurePosixPath(name).suffix.lower(), problems, name=name)
            check_columns(found, [*columns, label], name, [*("text", "text_pair")[: len(columns)], "label"])
            rows[split] = found
        name = task or Path(root).stem
        splits, class_names = labelled(rows, columns, label, selection == "spearman", name, problems)
        for problem, count in problems.items():
            log.warning("'%s': %d %s", name, count, problem)
        self.problems = dict(problems)
        super().__init__(
            name, splits, class_names, tokenizer, max_length, batch_size, val_fraction, split_seed, selection, cache
        )


def labelled(
    rows: dict[str, list[Row]],
    columns: list[str],
    label: str,
    regression: bool,
    name: str,
    problems: Counter,
    class_names: list[str] | None = None,
) -> tuple[dict[str, Texts], list[str]]:
    """(splits, class names): texts and class numbers, or numbers to be predicted; incomplete rows are counted and left out.

    Args:
        class_names: in label order; None takes the labels that occur in training, sorted (as numbers where they are).
    """
    kept = {}
    for split, found in rows.items():
        whole = [(tuple(row.get(column) for column in columns), _plain(row.get(label))) for row in found]
        kept[split] = [(strings, value) for strings, value in whole if value != "" and _has_text(strings)]
        if len(kept[split]) < len(whole):
            problems[INCOMPLETE] += len(whole) - len(kept[split])
        if not kept[split]:
            raise BadInput(f"'{name}' has no complete rows in its split '{split}'")
    if class_names is None:
        class_names = [] if regression else class_order({value for _, value in kept["train"]})
    number = {value: i for i, value in enumerate(class_names)}
    splits = {}
    for split, pairs in kept.items():
        try:
            labels = [float(value) if regression else number[value] for _, value in pairs]
        except KeyError as error:
            raise BadInput(f"label {error} in the split '{split}' of '{name}' has no training texts") from error
        except ValueError as error:
            raise BadInput(f"'{name}' is a regression and has a label that is no number: {error}") from error
        splits[split] = Texts([strings for strings, _ in pairs], np.array(labels, np.float32 if regression else np.int64))
    return splits, class_names


def _has_text(strings: tuple[object, ...]) -> bool:
    """Of a pair one may be empty, not both."""
    return all(isinstance(string, str) for string in strings) and any(string.strip() for string in strings)


def _plain(label: object) -> str:
    """As text: '' for a missing one."""
    return "" if label is None else str(label).strip()


def _files(root: str, task: str | None) -> dict[str, tuple[str, bytes]]:
    """split -> (name, content)."""
    if not os.path.exists(root):
        raise BadInput(f"datamodule.root='{root}' does not exist")
    if os.path.isfile(root) and Path(root).suffix.lower() in SUFFIXES:
        return {"train": (root, Path(root).read_bytes())}
    if os.path.isdir(root):
        paths = {split: Path(root) / name for split, name in _chosen(names_in(root), root, task).items()}
        return {split: (str(path), path.read_bytes()) for split, path in paths.items()}
    try:
        chosen = _chosen(names_in(root), root, task)
        with zipfile.ZipFile(root) as archive:
            return {split: (f"{root}/{name}", archive.read(name)) for split, name in chosen.items()}
    except zipfile.BadZipFile as error:
        raise BadInput(f"datamodule.root='{root}' is neither a folder, a .zip nor one of {', '.join(SUFFIXES)}") from error
    except DAMAGE as error:
        raise BadInput(f"datamodule.root='{root}' cannot be read: {' '.join(str(error).split())}") from error


def _chosen(names: list[str], root: str, task: str | None) -> dict[str, str]:
    """split -> the file that holds it, of all in the tree."""
    by_folder: dict[str, dict[str, list[str]]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        split, folder = SPLIT_NAMES.get(path.stem.lower()), path.parent
        if split and path.suffix.lower() in SUFFIXES:
            folder = folder.parent if SPLIT_NAMES.get(folder.name.lower()) == split else folder  # train/train.csv
            by_folder.setdefault(folder.as_posix(), {}).setdefault(split, []).append(name)
    folders = {folder: splits for folder, splits in by_folder.items() if "train" in splits}
    if not folders:
        raise BadInput(f"datamodule.root='{root}' holds no train.tsv, train.csv, train.jsonl or train.parquet")
    if task is not None:
        folders = {folder: splits for folder, splits in folders.items() if PurePosixPath(folder).name == task} or folders
    if len(folders) > 1 or (task is not None and PurePosixPath(next(iter(folders))).name not in (task, "")):
        tasks = [PurePosixPath(folder).name for folder in folders]
        said = f"datamodule.task='{task}' is not in '{root}'" if task else f"'{root}' holds several tasks: set datamodule.task"
        raise BadInput(f"{said}; {nearest(task or '', tasks)}")
    chosen = next(iter(folders.values()))
    for split, several in chosen.items():
        if len(several) > 1:
            raise BadInput(f"'{root}' holds its split '{split}' more than once: {', '.join(several)}; leave one there")
    return {split: name for split, (name,) in chosen.items()}
