"""From tar shards to batches: read, decode and resize 64 px JPEGs with their captions, beside plain webdataset.

Both sides read shards of the same content in two workers and give shuffled batches of pictures. webdataset's pipeline is
that of its README (decode, to_tuple, map_tuple, batched, WebLoader) and gives captions as text; ours gives them tokenised.
Decoding and resizing alone, of JPEGs in memory, is what neither can be faster than.
"""

import io
import json
import random
import tarfile
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import PIL.Image
import torch
import webdataset
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from benchmarks.cases.case import Case, Peer
from benchmarks.gate import Gate
from datamodules import samples
from datamodules.samples import EvaluationView
from datamodules.shard_files import shard_files
from datamodules.webdataset import WebDataset

WORKERS, EPOCHS = 2, 10_000


@dataclass(frozen=True)
class Shards:
    """What is read.

    Attributes:
        batch: pictures with captions.
        image_size: to which they are resized.
        pattern: brace pattern or glob of shards with .jpg and .json members, "captions" in these; None makes some up.
        num_shards, num: how many are made up, and with how many samples each.
    """

    batch: int = 64
    image_size: int = 56
    pattern: str | None = None
    num_shards: int = 4
    num: int = 500
    unit: str = "samples"

    @property
    def units_a_step(self) -> int:
        return self.batch

    def described(self) -> str:
        return f"tar shards, {self.batch} x {self.image_size} px, {WORKERS} workers"

    def with_batch(self, batch: int) -> "Shards":
        return replace(self, batch=batch)

    def written(self) -> str:
        """The pattern of the shards, made up first where there are none: soft noise in colour, five captions each."""
        if self.pattern is not None:
            return self.pattern
        folder, rng, words = Path(tempfile.mkdtemp()), np.random.default_rng(0), [f"word{i}" for i in range(500)]
        for shard in range(self.num_shards):
            with tarfile.open(folder / f"made-{shard}.tar", "w") as archive:
                for i in range(self.num):
                    noise = PIL.Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((64, 64))
                    jpeg = io.BytesIO()
                    noise.save(jpeg, "JPEG", quality=85)
                    captions = [" ".join(rng.choice(words, 11)) for _ in range(5)]
                    for suffix, raw in (("jpg", jpeg.getvalue()), ("json", json.dumps({"captions": captions}).encode())):
                        entry = tarfile.TarInfo(f"{shard}_{i:04}.{suffix}")
                        entry.size = len(raw)
                        archive.addfile(entry, io.BytesIO(raw))
        return f"{folder}/made-{{0..{self.num_shards - 1}}}.tar"


def ours(gate: Gate, work: Shards, precision: str) -> None:
    settings = {"batch_size": work.batch, "image_size": work.image_size, "val_fraction": 0.01, "cache": tempfile.mkdtemp()}
    data = WebDataset(work.written(), {"vocab_size": 2000}, **settings)
    num_batches = EPOCHS * data.spec.num_train // work.batch
    with patch.object(samples, "KEPT", 0):  # real shards are too many to be kept decoded, so these are not either
        for batch in data.train_loader(None, seed=0, num_batches=num_batches, workers=WORKERS):
            check(batch["views"][:, 0], work)
            gate.step()


def plain(gate: Gate, work: Shards, precision: str) -> None:
    resize = transforms.Compose(
        [
            transforms.Resize(work.image_size, InterpolationMode.BICUBIC),
            transforms.CenterCrop(work.image_size),
            transforms.PILToTensor(),
        ]
    )
    dataset = (
        webdataset.WebDataset([file.path for file in shard_files(work.written(), "--shards")], shardshuffle=100)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "json")
        .map_tuple(resize, one_caption)
        .batched(work.batch, partial=False)
        .repeat(EPOCHS)
    )
    for pictures, _ in webdataset.WebLoader(dataset, batch_size=None, num_workers=WORKERS, prefetch_factor=4):
        check(pictures, work)
        gate.step()


def decoding(gate: Gate, work: Shards, precision: str) -> None:
    """What neither can do without: pictures that lie in memory are decoded, resized and put together in as many workers."""
    rows = Decoding(jpegs(work), EvaluationView(work.image_size))
    order = BatchSampler(RandomSampler(rows, num_samples=EPOCHS * len(rows)), work.batch, drop_last=True)
    loader = DataLoader(rows, batch_sampler=order, num_workers=WORKERS, prefetch_factor=4, collate_fn=torch.asarray)
    for pictures in loader:
        check(pictures, work)
        gate.step()


@dataclass(frozen=True)
class Decoding(Dataset):
    """JPEGs, of which a batch is asked for at a time."""

    jpegs: list[bytes]
    view: EvaluationView

    def __len__(self) -> int:
        return len(self.jpegs)

    def __getitems__(self, chosen: list[int]) -> torch.Tensor:
        pictures = [PIL.Image.open(io.BytesIO(self.jpegs[i])).convert("RGB") for i in chosen]
        return self.view(pictures, 0, torch.zeros(0), torch.zeros(0))[:, 0]


def jpegs(work: Shards) -> list[bytes]:
    """All of the shards."""
    found = []
    for file in shard_files(work.written(), "--shards"):
        with tarfile.open(file.path) as archive:
            found += [archive.extractfile(entry).read() for entry in archive if entry.name.endswith(".jpg")]
    return found


def one_caption(facts: dict) -> str:
    return random.choice(facts["captions"])


def check(pictures: torch.Tensor, work: Shards) -> None:
    """Both sides give the same kind of thing."""
    assert pictures.shape == (work.batch, 3, work.image_size, work.image_size)
    assert pictures.dtype == torch.uint8


CASES = {
    "data": Case(
        Shards(),
        Shards(batch=4, num_shards=2, num=30),
        {
            "webdataset": Peer(plain, "plain webdataset", 1.5, 1.5),
            "decoding": Peer(decoding, "decoding and resizing alone", 0.0, 0.0),
        },
        ours=ours,
    )
}
