"""Frozen features of a split, and embeddings of pictures and texts: eval mode, evaluation view, no gradient, each once."""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from datamodules.contract import Data
from datamodules.loading import batches
from datamodules.watching import watched
from errors import BadInput
from models.encoder import POOLED, Encoder
from models.pair import Pair

TEXTS_AT_ONCE = 256


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


def extract(
    encoder: Encoder,
    data: Data,
    split: str,
    names: Iterable[str] = (POOLED,),
    limit: int | None = None,
    workers: int = 0,
    precision: str = "fp32",
) -> tuple[dict[str, Tensor], Tensor]:
    """(readout -> features (n, D) float32, labels (n,)) on the CPU, in the evaluation loader's order.

    Args:
        names: of the encoder's readouts.
        limit: take that many samples, evenly spaced.
        precision: "fp32", "bf16" or "fp16", of the forward pass.

    Raises:
        BadInput: no sample of the split can be read, or a whole split has features that are no numbers.
    """
    read, known = _read(
        encoder, lambda batch: encoder.readouts(encoder.inputs(batch), names), data, split, limit, workers, precision
    )
    return read, known["label"]


def embed_pictures(
    pair: Pair, data: Data, split: str, workers: int = 0, precision: str = "fp32"
) -> tuple[Tensor, Tensor, Tensor]:
    """(unit vectors (n, E) float32, labels (n,), numbers in the split (n,)) of all readable pictures, on the CPU."""
    read, known = _read(pair, lambda batch: {"image": pair.images(batch["views"][:, 0])}, data, split, None, workers, precision)
    return read["image"], known["label"], known["index"]


def embed_texts(pair: Pair, texts: list[str], precision: str = "fp32") -> Tensor:
    """(n, E) unit vectors float32 of texts in their order, on the CPU.

    Raises:
        BadInput: some are no numbers.
    """
    rows = pair.rows(texts)
    ids, present = rows["ids"], rows["present"]
    by_length = present.sum(1).argsort()  # texts of about one length go together, so that little is padding
    embedded = []
    with frozen(pair), _at(precision, ids.device.type):
        for chunk in watched(by_length.split(TEXTS_AT_ONCE), "embeddings of texts"):
            longest = int(present[chunk].sum(1).max())
            chunk_rows = {"ids": ids[chunk, :longest], "present": present[chunk, :longest]}
            embedded.append(pair.texts(chunk_rows).float().cpu())
    vector_NE = torch.cat(embedded)[by_length.argsort().cpu()]
    _check_finite(pair.text_encoder, vector_NE, "texts", precision)
    return vector_NE


def _at(precision: str, device_type: str) -> torch.autocast:
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device_type, half or torch.bfloat16, enabled=half is not None)


def _read(
    module: nn.Module,
    read: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    data: Data,
    split: str,
    limit: int | None,
    workers: int,
    precision: str,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(what is read of the samples, their "label" and "index"), each (n, ...) on the CPU; labels are -1 where none are.

    Raises:
        BadInput: no sample of the split can be read, or of a whole split some features are no numbers. Of a few samples, while
            training, they may be: the loss will say so, and where.
    """
    device = next(chain(module.parameters(), module.buffers())).device
    features: dict[str, list[Tensor]] = {}
    known: dict[str, list[Tensor]] = {"label": [], "index": []}
    loader = data.evaluation_loader(split, limit, workers)
    shown = batches(loader) if limit is not None else watched(batches(loader), f"features of {split}", len(loader))
    with frozen(module), _at(precision, device.type):
        for batch in shown:
            known["index"].append(batch["index"])
            known["label"].append(batch["label"] if "label" in batch else torch.full_like(batch["index"], -1))
            for name, read_BD in read({name: value.to(device) for name, value in batch.items()}).items():
                features.setdefault(name, []).append(read_BD.float().cpu())
    if not features:
        raise BadInput(f"'{data.spec.name}' has no sample in its split '{split}' that can be read")
    joined = _joined(features)
    for found in joined.values() if limit is None else ():
        _check_finite(getattr(module, "image_encoder", module), found, f"samples of split '{split}'", precision)
    return joined, _joined(known)


def _check_finite(encoder: nn.Module, vector_ND: Tensor, what: str, precision: str) -> None:
    """Refuse vectors that no distance can be taken of: a comparison with NaN is false, which would rank every answer first."""
    broken = int((~vector_ND.isfinite().all(1)).sum())
    if broken:
        name = getattr(encoder, "name", None) or type(encoder).__name__
        hint = "its weights may have diverged" if precision == "fp32" else "try trainer.precision=fp32"
        raise BadInput(
            f"encoder '{name}' gives NaN or infinity for {broken:,} of {len(vector_ND):,} {what} in {precision}; {hint}"
        )


def _joined(parts: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat(several) for name, several in parts.items()}
