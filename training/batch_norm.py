"""Batch norm over the whole batch of all ranks, so that it normalises and remembers as one process with that batch would.

Shapes: x (b, C, ...) with b samples on this rank, C channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from objectives.gather import total_over_ranks


def synchronise_batch_norm(module: nn.Module, device_type: str) -> nn.Module:
    """Let every batch norm inside `module` see all ranks; weights and their names stay as they are.

    torch's own layer does so on GPUs, with kernels of its own, and refuses anything else. There the class of the layers is
    exchanged for one that says the same in plain operations.
    """
    from timm.layers import BatchNormAct2d, convert_sync_batchnorm  # seconds, for which text has no use

    if device_type == "cuda":
        return convert_sync_batchnorm(module)
    for layer in module.modules():
        if isinstance(layer, BatchNormAct2d):
            layer.__class__ = SyncedBatchNormAct
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.__class__ = SyncedBatchNorm
    return module


def has_batch_norm(module: nn.Module) -> bool:
    """Whether what a sample becomes depends on the others in its batch by way of batch norm."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """A context that leaves the running statistics inside `module` as they are: batch norms move copies of them.

    For a pass that computes once more what has been counted; it may end by an exception.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers()]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)


class SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm of any dimension; ranks hold equally many samples."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        others = [dimension for dimension in range(x.ndim) if dimension != 1]
        shape = [-1 if dimension == 1 else 1 for dimension in range(x.ndim)]
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean_C = total_over_ranks(x.sum(others)) / count
        centred = x - mean_C.view(shape)
        variance_C = total_over_ranks(centred.square().sum(others)) / count
        if self.track_running_stats:
            self._remember(mean_C.detach(), variance_C.detach() * count / max(1, count - 1))
        scale_C = (variance_C + self.eps).rsqrt()
        if self.affine:
            return (centred * (scale_C * self.weight).view(shape) + self.bias.view(shape)).to(input.dtype)
        return (centred * scale_C.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean_C: Tensor, unbiased_C: Tensor) -> None:
        self.num_batches_tracked += 1
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C, share)
        self.running_var.lerp_(unbiased_C, share)


class SyncedBatchNormAct(SyncedBatchNorm):
    """timm's batch norm with its activation."""

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))
