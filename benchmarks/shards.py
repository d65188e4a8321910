"""How fast tar shards become batches: read, decode and resize 64 px JPEGs with their captions, beside plain webdataset.

Both sides read the same shards in two workers and give batches of 64 pictures of 56 px, shuffled. webdataset's pipeline is
that of its README (decode, to_tuple, map_tuple, batched, WebLoader) and gives captions as text; ours gives them tokenised.
What is timed is a stream of several epochs after its first batches, alternating.

    python benchmarks/shards.py                                  # on made-up shards; less than a minute on two cores
    python benchmarks/shards.py --shards 'train-{00..04}.tar'    # with .jpg and .json members, "captions" in these
"""

import argparse
import io
import json
import random
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import PIL.Image
import torch
import webdataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules.shard_files import shard_files
from datamodules.webdataset import WebDataset

BATCH, SIZE, WORKERS, ROUNDS, WARM_UP = 64, 56, 2, 5, 10
RESIZE = transforms.Compose(
    [transforms.Resize(SIZE, InterpolationMode.BICUBIC), transforms.CenterCrop(SIZE), transforms.PILToTensor()]
)


def made_up(folder: Path, num_shards: int = 4, num: int = 500) -> str:
    """Soft noise in colour, about 2 kB a JPEG, with five captions each."""
    rng, words = np.random.default_rng(0), [f"word{i}" for i in range(500)]
    for shard in range(num_shards):
        with tarfile.open(folder / f"made-{shard}.tar", "w") as archive:
            for i in range(num):
                noise = PIL.Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((64, 64))
                jpeg = io.BytesIO()
                noise.save(jpeg, "JPEG", quality=85)
                captions = [" ".join(rng.choice(words, 11)) for _ in range(5)]
                for suffix, raw in (("jpg", jpeg.getvalue()), ("json", json.dumps({"captions": captions}).encode())):
                    entry = tarfile.TarInfo(f"{shard}_{i:04}.{suffix}")
                    entry.size = len(raw)
                    archive.addfile(entry, io.BytesIO(raw))
    return f"{folder}/made-{{0..{num_shards - 1}}}.tar"


def one_caption(facts: dict) -> str:
    return random.choice(facts["captions"])


def theirs(shards: str, epochs: int) -> Iterable:
    dataset = (
        webdataset.WebDataset([file.path for file in shard_files(shards, "--shards")], shardshuffle=100)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "json")
        .map_tuple(RESIZE, one_caption)
        .batched(BATCH)
        .repeat(epochs)
    )
    return webdataset.WebLoader(dataset, batch_size=None, num_workers=WORKERS, prefetch_factor=4)


def ours(data: WebDataset, num_batches: int) -> Iterable:
    return data.train_loader(None, seed=0, num_batches=num_batches, workers=WORKERS)


def samples_per_second(loader: Iterable, pictures: Callable) -> float:
    count, began = 0, 0.0
    for number, batch in enumerate(loader):
        views = pictures(batch)
        assert views.shape[-3:] == (3, SIZE, SIZE)
        assert views.dtype == torch.uint8
        if number >= WARM_UP:
            count += len(views)
        elif number == WARM_UP - 1:
            began = time.perf_counter()
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", help="brace pattern or glob; by default made-up shards")
    parser.add_argument("--epochs", type=int, default=4)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shards = chosen.shards or made_up(Path(folder))
        began = time.perf_counter()
        settings = {"batch_size": BATCH, "image_size": SIZE, "val_fraction": 0.01, "cache": folder}
        data = WebDataset(shards, {"vocab_size": 2000}, **settings)
        print(f"index and tokenizer: {time.perf_counter() - began:.1f} s, once; {data.spec.num_train} pairs")
        ratios = []
        for round_ in range(ROUNDS):
            speeds = {}
            for side in ("ours", "webdataset") if round_ % 2 else ("webdataset", "ours"):  # who comes first changes
                if side == "ours":
                    loader = ours(data, chosen.epochs * data.spec.num_train // BATCH)
                    speeds[side] = samples_per_second(loader, lambda batch: batch["views"][:, 0])
                else:
                    speeds[side] = samples_per_second(theirs(shards, chosen.epochs), lambda batch: batch[0])
            ratios.append(speeds["ours"] / speeds["webdataset"])
            shown = ", ".join(f"{side} {speed:.0f} samples/s" for side, speed in sorted(speeds.items()))
            print(f"round {round_}: {shown}, ratio {ratios[-1]:.2f}", flush=True)
    print(f"{WORKERS} workers: median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
