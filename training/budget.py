"""How long a run is: exactly one of steps, epochs, samples or FLOPs, turned into optimiser steps once all is known."""

import math
from dataclasses import dataclass

from errors import BadInput, nearest

UNITS = ("steps", "epochs", "samples", "flops")


@dataclass(frozen=True)
class Budget:
    """What was asked for.

    Attributes:
        unit: one of UNITS.
        amount: how many of them; FLOPs are those of the whole training step, all networks, forward and backward.
    """

    unit: str
    amount: float

    @classmethod
    def of(cls, asked: dict[str, float | None], default_flops: float) -> "Budget":
        """From the config node `budget`; nothing set means `default_flops`, so that objectives get the same compute.

        Raises:
            BadInput: two budgets at once, an unknown unit, or an amount that is not a positive number.
        """
        given = {unit: amount for unit, amount in asked.items() if amount is not None} or {"flops": default_flops}
        if len(given) > 1:
            raise BadInput(f"exactly one budget can be set, not {' and '.join(f'budget.{unit}' for unit in given)}")
        (unit, amount), *_ = given.items()
        if unit not in UNITS:
            raise BadInput(f"there is no budget.{unit}; {nearest(unit, UNITS)}")
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < amount < math.inf:
            raise BadInput(f"budget.{unit} must be a positive number, not {amount!r}")
        return cls(unit, amount)

    def num_steps(self, batch_size: int, num_train: int, sample_flops: float) -> int:
        """Optimiser steps that fit into the budget.

        Args:
            batch_size: global samples a step.
            num_train: samples an epoch.
            sample_flops: of a training step, divided by its samples.

        Raises:
            BadInput: the budget is smaller than one step.
        """
        samples = {
            "steps": self.amount * batch_size,
            "epochs": self.amount * num_train,
            "samples": self.amount,
            "flops": self.amount / max(sample_flops, 1.0),
        }[self.unit]
        # epochs end within a batch: then the last batch is filled from the next epoch rather than dropped
        steps = math.ceil(samples / batch_size) if self.unit == "epochs" else int(samples / batch_size + 1e-9)
        if steps < 1:
            raise BadInput(
                f"budget.{self.unit}={self.amount:g} is smaller than one step "
                f"({batch_size} samples, {sample_flops * batch_size:.2g} FLOPs)"
            )
        return steps
