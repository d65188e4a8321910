"""LARS (You et al. 2017), as SimCLR's authors use it: the learning rate stands inside the momentum buffer."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from ranges import NotNegative, Positive, Share


class LARS(Optimizer):
    """SGD with momentum whose step for each matrix is scaled to the matrix's own norm.

    Vectors (biases, norms) are neither adapted nor decayed. What is adapted depends on the parameter's shape alone, so
    that a weight decay of zero still adapts.

    Args:
        trust_coefficient: of the ratio |w| / |g| ("eeta").
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        momentum: Share = 0.9,
        weight_decay: NotNegative = 0.0,
        trust_coefficient: Positive = 0.001,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                update = weight.grad
                if weight.ndim > 1:
                    update = update.add(weight, alpha=group["weight_decay"])
                    weight_norm, update_norm = weight.norm(), update.norm()
                    ratio = group["trust_coefficient"] * weight_norm / update_norm
                    usable = (weight_norm > 0) & (update_norm > 0)
                    update = update * torch.where(usable, ratio, torch.ones_like(ratio))
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(update, alpha=group["lr"])
                weight.sub_(buffer)
        return loss
