"""Frozen features of a split: eval mode, evaluation view, no gradient, each picture once."""

from collections.abc import Iterable
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import torch
from rich import get_console
from rich.progress import track
from torch import Tensor, nn

from datamodules.images import ImageData, batches
from models.encoder import Encoder

Step = TypeVar("Step")


@contextmanager
def frozen(module: nn.Module):
    """Eval mode and no gradient inside; afterwards the mode is as it was."""
    training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            yield module
    finally:
        module.train(training)


def watched(steps: Iterable[Step], description: str, total: int | None = None) -> Iterable[Step]:
    """The same steps with a progress bar, on a terminal; in a log file it would be noise."""
    return track(steps, description, total, transient=True) if get_console().is_terminal else steps


def extract(
    encoder: Encoder, data: ImageData, split: str, limit: int | None = None, workers: int = 0, precision: str = "fp32"
) -> tuple[Tensor, Tensor]:
    """(features (n, D) float32, labels (n,)) on the CPU, in the order of the split; corrupt pictures are left out.

    Args:
        limit: take that many pictures, evenly spaced.
        precision: "fp32", "bf16" or "fp16", of the forward pass.
    """
    device = next(chain(encoder.parameters(), encoder.buffers())).device
    features, labels = [], []
    loader = data.evaluation_loader(split, limit, workers)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    shown = batches(loader) if limit is not None else watched(batches(loader), f"features of {split}", len(loader))
    with frozen(encoder), torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
        for batch in shown:
            images = encoder.normalise(batch["views"][:, 0].to(device))
            features.append(encoder(images).pooled.float().cpu())
            labels.append(batch["label"])
    return torch.cat(features), torch.cat(labels)
