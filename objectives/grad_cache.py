"""Large batches in bounded memory with the gradient of the whole batch (Gao et al. 2021, "Scaling Deep Contrastive Learning
Batch Size under Memory Limited Setup").

A loss that compares samples needs all embeddings at once, but the activations behind them only one chunk at a time. So the
first pass keeps nothing but the embeddings; when the gradient of the loss has reached them, each chunk is run once more
and sent backward alone. That is activation checkpointing of each chunk: PyTorch repeats dropout's random numbers and the
precision of the first pass, a parameter's gradient is complete before data parallelism sees it, and the caller calls
`backward` once, as ever.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(encode: Callable[..., Tensor], num_chunks: int, *inputs: Tensor | None) -> Tensor:
    """`encode(*inputs)`, at most `num_chunks` parts of the first dimension at a time; rows must not see each other.

    Args:
        encode: (b, ...) tensors -> (b, E).
        inputs: tensors of the same length, or None.
    """
    if num_chunks == 1:
        return encode(*inputs)
    num_parts = min(num_chunks, len(inputs[0]))
    cut = [[None] * num_parts if whole is None else whole.tensor_split(num_parts) for whole in inputs]
    return torch.cat([checkpoint(encode, *part, use_reentrant=False) for part in zip(*cut, strict=True)])
