"""Frozen features of a split: eval mode, evaluation view, no gradient, each sample once."""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from rich import get_console
from rich.progress import track
from torch import Tensor, nn

from datamodules.contract import Data
from datamodules.loading import batches
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
    encoder: Encoder, data: Data, split: str, limit: int | None = None, workers: int = 0, precision: str = "fp32"
) -> tuple[Tensor, Tensor]:
    """(pooled features (n, D) float32, labels (n,)) on the CPU, in the evaluation loader's order.

    Args:
        limit: take that many samples, evenly spaced.
        precision: "fp32", "bf16" or "fp16", of the forward pass.
    """
    read, labels = _read(encoder, lambda inputs: {"pooled": encoder(inputs).pooled}, data, split, limit, workers, precision)
    return read["pooled"], labels


def extract_readouts(
    encoder: Encoder, data: Data, split: str, workers: int = 0, precision: str = "fp32"
) -> tuple[dict[str, Tensor], Tensor]:
    """As `extract`, but everything among which a probe may choose: readout -> (n, D)."""
    return _read(encoder, encoder.readouts, data, split, None, workers, precision)


def _read(
    encoder: Encoder,
    read: Callable[[Any], dict[str, Tensor]],
    data: Data,
    split: str,
    limit: int | None,
    workers: int,
    precision: str,
) -> tuple[dict[str, Tensor], Tensor]:
    device = next(chain(encoder.parameters(), encoder.buffers())).device
    features: dict[str, list[Tensor]] = {}
    labels = []
    loader = data.evaluation_loader(split, limit, workers)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    shown = batches(loader) if limit is not None else watched(batches(loader), f"features of {split}", len(loader))
    with frozen(encoder), torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
        for batch in shown:
            batch = {name: value.to(device) for name, value in batch.items()}
            for name, read_BD in read(encoder.inputs(batch)).items():
                features.setdefault(name, []).append(read_BD.float().cpu())
            labels.append(batch["label"].cpu() if "label" in batch else torch.full_like(batch["index"].cpu(), -1))
    return {name: torch.cat(parts) for name, parts in features.items()}, torch.cat(labels)
