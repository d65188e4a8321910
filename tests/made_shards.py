"""Small made-up shards, whose pictures and captions both say which sample they belong to."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from datamodules.webdataset import WebDataset

SMALL = {"kind": "wordpiece", "vocab_size": 200}
CLASSES = ("desert", "forest", "river")
File = tuple[str, bytes]


def picture(number: int, size: int = 8, kind: str = "PNG") -> bytes:
    """All of one colour, which is the number."""
    stream = io.BytesIO()
    PIL.Image.new("RGB", (size, size), (number % 16 * 16, number // 16 * 16, 0)).save(stream, kind)
    return stream.getvalue()


def caption(number: int, which: int = 0) -> str:
    """Its letters are the digits of the number."""
    words = " ".join("abcdefghij"[int(digit)] for digit in f"{number:03}")
    return f"{words} {('seen', 'shown', 'drawn')[which]}"


def sample(number: int, captions: int = 1) -> list[File]:
    facts = {"captions": [caption(number, which) for which in range(captions)], "scene": CLASSES[number % 3]}
    return [(f"{number:04}.png", picture(number)), (f"{number:04}.json", json.dumps(facts).encode())]


def tar(path: Path, files: Iterable[File | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w") as archive:
        for file in files:
            if isinstance(file, tarfile.TarInfo):
                archive.addfile(file)
                continue
            entry = tarfile.TarInfo(file[0])
            entry.size = len(file[1])
            archive.addfile(entry, io.BytesIO(file[1]))
    return path


def shards(folder: Path, numbers: Iterable[range], captions: int = 1, name: str = "train") -> str:
    """Their pattern; one shard for each range."""
    numbers = list(numbers)
    for shard, members in enumerate(numbers):
        tar(folder / f"{name}-{shard:02}.tar", [file for number in members for file in sample(number, captions)])
    return f"{folder}/{name}-{{00..{len(numbers) - 1:02}}}.tar"


def words_for_shards(folder: Path, num: int) -> list[str]:
    """What to type for a small run of CLIP on `num` samples in three shards, one of them with a single sample."""
    return [
        "objective=clip", "model.depth=1", "objective.text_model=bert_tiny", "objective.patch_dropout=0.5",
        "objective.text_settings.depth=1", "objective.text_settings.dropout=0.1", "datamodule=webdataset",
        f"datamodule.shards={shards(folder, [range(0, 9), range(9, 10), range(10, num)], captions=3)}",
        f"datamodule.val_shards={shards(folder, [range(240, 246)], name='val')}",
        f"datamodule.test_shards={shards(folder, [range(246, 252)], name='test')}",
        "datamodule.image_size=32", "datamodule.tokenizer.vocab_size=200", f"datamodule.cache={folder}/cache",
    ]  # fmt: skip


def opened(folder: Path, pattern: str, **changes) -> WebDataset:
    """No splits are carved from the training shards: the others get shards of their own."""
    held = shards(folder, [range(240, 246)], name="held")
    settings = {
        "tokenizer": SMALL, "batch_size": 6, "cache": str(folder / "cache"), "val_shards": held,
        "test_shards": shards(folder, [range(246, 252)], name="test"),
    }  # fmt: skip
    return WebDataset(pattern, **(settings | changes))


def shown(data: WebDataset, batch: dict[str, torch.Tensor]) -> list[tuple[int, int]]:
    """(number that the picture shows, number that the caption says) of each sample."""
    red, green = batch["views"][:, 0, :2, 0, 0].long().unbind(1)
    said = [
        int("".join(str("abcdefghij".index(letter)) for letter in text.split()[:3]))
        for text in data.spec.vocabulary.tokenizer.batch_decode(batch["ids"], skip_special_tokens=True)
    ]
    return list(zip((red // 16 + green).tolist(), said, strict=True))


def noise(seed: int, size: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
