"""Any tree of pictures, or a .zip of one: `train/<class>/x.jpg`, `<class>/x.jpg`, or just pictures without labels."""

import logging
import os
from pathlib import PurePosixPath

import numpy as np

from datamodules.files import DAMAGE, open_members
from datamodules.images import ImageData
from datamodules.paths import names_in
from datamodules.samples import Pictures, usual_size
from errors import BadInput
from ranges import Count, Seed, ShareBelow1

log = logging.getLogger(__name__)

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class ImageFolder(ImageData):
    """Pictures in class folders; links are followed, hidden files left out.

    Splits are the top folders `train`, `val` and `test` where `train` exists; otherwise everything is one split, and
    the others are carved from it. Classes are the folders directly above the pictures; where a picture lies in none, no
    picture has a label.

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
        root = os.path.expanduser(root)
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
        in_split_folders = "train" in by_split
        if in_split_folders:
            others = by_split.pop("", [])
            if others:
                log.warning(
                    "'%s': %d pictures in no folder of a split are left out, among them '%s'", root, len(others), others[0]
                )
        else:
            by_split = {"train": [prefix + name for prefix, name in names]}
        depth = {prefix + name: len(PurePosixPath(name).parts) for prefix, name in names}
        shallow = [name for group in by_split.values() for name in group if depth[name] <= 1 + in_split_folders]
        if 0 < len(shallow) < sum(map(len, by_split.values())):
            log.warning(
                "'%s': %d pictures lie in no class folder, among them '%s', so the labels of all are left out",
                root, len(shallow), shallow[0],
            )  # fmt: skip
        labelled = not shallow
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
    try:
        return names_in(root)
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
