"""Coupled Adam: the rows of an embedding share one second moment (Stollenwerk and Stollenwerk 2025, ACL, pages 27219-27236).

Shapes: V rows of an embedding table, D width.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import AdamW

from ranges import Positive


class CoupledAdamW(AdamW):
    """AdamW, except that all rows of an embedding table are scaled alike.

    A softmax over the vocabulary pushes every absent token a tiny step away from what is predicted. AdamW scales each row to
    steps of full size, so these pushes carry rare tokens off together, until their vectors differ in little but length. With
    the mean of the rows' second moments rows keep their proportions: gradients that sum to zero over the
    vocabulary move its mean nowhere.

    Args:
        groups: as `parameter_groups` makes them; those marked "embedding", of tokens, are coupled. Tables of positions and
            segments are not: no softmax pushes their rows, and rows that no text reaches would lower the mean.
        embedding_lr: factor on the learning rate of what is coupled.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(self, groups: Iterable[dict], lr: float, embedding_lr: Positive = 1.0, **settings: object):
        super().__init__(groups, lr=lr, **settings)
        for group in self.param_groups:
            if group.setdefault("embedding", False):
                group["lr"] = group["lr"] * embedding_lr

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:  # before any group is set aside: Lightning clips the gradients of all of them in there
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["embedding"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            for weight in group["params"]:
                if group["embedding"] and weight.grad is not None:
                    self.step_embedding(weight, group)
        return loss

    def step_embedding(self, weight_VD: Tensor, group: dict) -> None:
        """Adam with the mean of the rows' second moments, and the decoupled weight decay of AdamW."""
        state, (beta1, beta2) = self.state[weight_VD], group["betas"]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(weight_VD)
            state["exp_avg_sq"] = torch.zeros_like(weight_VD)  # of every row, so that it is sharded and saved like AdamW's
        state["step"] = state["step"].cpu() + 1  # a fused optimiser loads it onto the GPU, for which each step would wait
        step = state["step"].item()
        first_VD = state["exp_avg"].lerp_(weight_VD.grad, 1 - beta1)
        second_VD = state["exp_avg_sq"].mul_(beta2).addcmul_(weight_VD.grad, weight_VD.grad, value=1 - beta2)
        scale_D = (second_VD.mean(0) / (1 - beta2**step)).sqrt() + group["eps"]
        weight_VD.mul_(1 - group["lr"] * group["weight_decay"])
        weight_VD.sub_(first_VD / scale_D, alpha=group["lr"] / (1 - beta1**step))
