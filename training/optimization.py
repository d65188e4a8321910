"""From a recipe in YAML to parameter groups, an optimiser and a schedule."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from models.encoder import Encoder

REFERENCE_BATCH = 256


@dataclass(frozen=True)
class Optimization:
    """How weights are moved.

    Attributes:
        algorithm: an optimiser class with its own settings filled in, called with (groups, lr=...).
        base_lr: learning rate at a global batch of 256; the peak is base_lr * batch / 256.
        weight_decay: on matrices; vectors (biases, norms) never decay.
        warmup: share of the budget over which the learning rate rises linearly from 0.
        clip_norm: the gradient's global norm is clipped to this; None is off.
        layer_decay: factor per layer from the head down to the embedding (1 is off); for fine-tuning.
    """

    algorithm: Callable[..., Optimizer]
    base_lr: float
    weight_decay: float = 0.0
    warmup: float = 0.1
    clip_norm: float | None = None
    layer_decay: float = 1.0

    def peak_lr(self, batch_size: int) -> float:
        """The linear scaling rule (Goyal et al. 2017)."""
        return self.base_lr * batch_size / REFERENCE_BATCH

    def lr_factor(self, step: int, num_steps: float) -> float:
        """Linear warm-up, then a half cosine to 0, by step; both scale to the budget."""
        warmup_steps = self.warmup * num_steps
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1.0, num_steps - warmup_steps)))

    def optimizer(self, module: nn.Module, batch_size: int) -> Optimizer:
        """The optimiser over all trainable parameters of `module`, each in exactly one group."""
        groups = parameter_groups(module, self.weight_decay, self.layer_decay)
        peak = self.peak_lr(batch_size)
        for group in groups:
            group["lr"] = peak * group.pop("lr_scale")
        return self.algorithm(groups, lr=peak)


def parameter_groups(module: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict]:
    """Trainable parameters by (layer, decays or not): {"params", "weight_decay", "lr_scale"}.

    Layer i of n of each encoder inside (embedding 0, blocks 1 to n - 1, final norm n) gets layer_decay ** (n - i), everything
    outside encoders 1 (He et al. 2022, appendix A.1; Clark et al. 2020, section 3.1).
    """
    below_top = {
        id(weight): len(encoder.blocks) + 1 - encoder.layer_of(name)
        for encoder in module.modules()
        if isinstance(encoder, Encoder)
        for name, weight in encoder.named_parameters()
    }
    groups: dict[tuple[float, float], dict] = {}
    for weight in module.parameters():
        if not weight.requires_grad:
            continue
        scale = layer_decay ** below_top.get(id(weight), 0)
        decay = weight_decay if weight.ndim > 1 else 0.0
        group = groups.setdefault((scale, decay), {"params": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(weight)
    return list(groups.values())
