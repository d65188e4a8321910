"""Any tree of pictures, or a .zip of one: `train/<class>/x.jpg`, `<class>/x.jpg`, or just pictures without labels."""

import os
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np

from datamodules.files import DAMAGE, open_members
from datamodules.images import ImageData
from datamodules.samples import Pictures, usual_size
from errors import BadInput
from ranges import Count, Seed, ShareBelow1

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class ImageFolder(ImageData):
    """Pictures in class folders.

    Splits are the top folders `train`, `val` and `test` where `train` exists; otherwise everything is one split, and
    the others are carved from it. Classes are the folders directly above the pictures; without any, there are no labels.

    Args:
        root: a folder or a .zip file.
        image_size: None measures the first pictures and takes their median shorter side, at most 224 px.
    Other arguments as in `ImageData`.
    """

    def __init__(
        self,
        root: str,
        image_size: Count | None = None,
        batch_size: Count = 64,
        val_fraction: ShareBelow1 = 0.1,
        split_seed: Seed = 0,
    ):
        if not root:
            raise BadInput("datamodule=image_folder needs datamodule.root=<a folder or .zip of class folders>")
        if not os.path.exists(root):
            raise BadInput(f"datamodule.root='{root}' does not exist")
        names = sorted(name for name in _members(root) if PurePosixPath(name).suffix.lower() in EXTENSIONS)
        if not names:
            raise BadInput(f"datamodule.root='{root}' holds no pictures ({', '.join(sorted(EXTENSIONS))})")
        names = _below_common_folder(names)
        by_split: dict[str, list[str]] = {}
        for prefix, name in names:
            parts = PurePosixPath(name).parts
            split = SPLIT_NAMES.get(parts[0].lower()) if len(parts) > 1 else None
            by_split.setdefault(split or "", []).append(prefix + name)
        if "train" in by_split:
            by_split.pop("", None)
        else:
            by_split = {"train": [prefix + name for prefix, name in names]}
        depth = {prefix + name: len(PurePosixPath(name).parts) for prefix, name in names}
        labelled = all(depth[name] > (1 if len(by_split) == 1 else 2) for group in by_split.values() for name in group)
        class_of = {name: PurePosixPath(name).parent.name for group in by_split.values() for name in group}
        class_names = sorted({class_of[name] for name in by_split["train"]}) if labelled else []
        if labelled:
            strange = sorted({class_of[name] for group in by_split.values() for name in group} - set(class_names))
            if strange:
                raise BadInput(f"class '{strange[0]}' in '{root}' has no training pictures")
        number = {name: i for i, name in enumerate(class_names)}
        splits = {
            split: Pictures(
                open_members(root, tuple(group)),
                len(group),
                np.array([number[class_of[name]] for name in group]) if labelled else None,
            )
            for split, group in by_split.items()
        }
        size = image_size or usual_size(splits["train"])
        super().__init__("image_folder", splits, class_names, size, batch_size, val_fraction, split_seed)


def _members(root: str) -> list[str]:
    """Relative paths of all files in a folder or zip, with forward slashes."""
    if os.path.isdir(root):
        return [path.relative_to(root).as_posix() for path in Path(root).rglob("*") if path.is_file()]
    try:
        with zipfile.ZipFile(root) as archive:
            return [name for name in archive.namelist() if not name.endswith("/")]
    except DAMAGE as error:
        raise BadInput(f"datamodule.root='{root}' is neither a folder nor a readable .zip: {error}") from error


def _below_common_folder(names: list[str]) -> list[tuple[str, str]]:
    """(prefix, rest): a single folder around everything (as archives often have) is no class and no split."""
    prefix = ""
    while True:
        tops = {name[len(prefix) :].partition("/")[0] for name in names}
        nested = all(name[len(prefix) :].count("/") >= 2 for name in names)
        if len(tops) > 1 or not nested:
            return [(prefix, name[len(prefix) :]) for name in names]
        prefix += tops.pop() + "/"
