"""A step in several parts: the gradient of the whole batch in the memory of a part of it.

It is speed, not science, so a part must not change what is learned: sums over targets are divided by the targets of the
whole step (`objectives.targets`), and whatever looks at samples together is refused.
"""

import copy
from typing import Any

import torch

from errors import BadInput
from models.attention import set_attention
from objectives.draw import Draw
from objectives.objective import Batch, Objective
from objectives.targets import parts_of_a_step
from training.batch_norm import has_batch_norm


def split_batch(batch: Batch, num_parts: int) -> list[Batch]:
    """The batch in equal parts; what is no tensor of samples goes with the first."""
    if num_parts == 1:
        return [batch]
    size = len(batch["index"]) // num_parts
    parts = [
        {name: value[first : first + size] for name, value in batch.items() if value.ndim}
        for first in range(0, size * num_parts, size)
    ]
    parts[0] |= {name: value for name, value in batch.items() if not value.ndim}
    return parts


def check_batch(batch_size: int, num_ranks: int, accumulate: Any, setting: str = "datamodule.batch_size") -> None:
    """Raise BadInput where a global batch, which `setting` gives, cannot be shared out equally."""
    if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
        raise BadInput(f"trainer.accumulate is a positive number of parts, not {accumulate!r}")
    if batch_size % (num_ranks * accumulate):
        raise BadInput(
            f"{setting}={batch_size} cannot be shared out equally among {num_ranks} ranks x "
            f"trainer.accumulate={accumulate}; take a multiple of {num_ranks * accumulate}"
        )


def check_accumulation(objective: Objective, batch: Batch, accumulate: int) -> None:
    """Raise BadInput where an objective looks at samples together, so that parts of a step would teach something else."""
    if accumulate == 1:
        return
    if has_batch_norm(objective):
        raise BadInput(
            f"trainer.accumulate={accumulate} would let batch norm see parts of the batch; choose a model without it, or fewer "
            "samples, or more devices (batch norm is synchronised over them)"
        )
    few = split_batch(batch, max(1, len(batch["index"]) // 2))[0]
    trial = copy.deepcopy(objective)
    set_attention(trial, "eager")  # this is on the host, where a GPU's kernels are not
    with parts_of_a_step(accumulate, counting=True), torch.no_grad():
        trial(few, Draw(0, few["epoch"], few["index"]))
