"""How long a run is: exactly one of steps, epochs, samples, tokens, FLOPs or minutes."""

import math
from dataclasses import dataclass

from datamodules.spec import DataSpec
from errors import BadInput, nearest
from training.course import Course, Minutes, Steps

UNITS = ("steps", "epochs", "samples", "tokens", "flops", "minutes")
COUNTED = ("steps", "samples", "tokens")  # of which there is no part


@dataclass(frozen=True)
class Budget:
    """What was asked for.

    Attributes:
        unit: one of UNITS.
        amount: how many of them. FLOPs are those of the whole training step, all networks, forward and backward; tokens are
            those of the rows, samples x block length; minutes are training time, without monitors.
    """

    unit: str
    amount: float

    @classmethod
    def of(cls, asked: dict[str, float | None], default_flops: float) -> "Budget":
        """From the config node `budget`; nothing set means `default_flops`, so that objectives get the same compute.

        Raises:
            BadInput: two budgets at once, an unknown unit, an amount that is not a positive number, or part of a step.
        """
        given = {unit: amount for unit, amount in asked.items() if amount is not None} or {"flops": default_flops}
        if len(given) > 1:
            raise BadInput(f"exactly one budget can be set, not {' and '.join(f'budget.{unit}' for unit in given)}")
        (unit, amount), *_ = given.items()
        if unit not in UNITS:
            raise BadInput(f"there is no budget.{unit}; {nearest(unit, UNITS)}")
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < amount < math.inf:
            raise BadInput(f"budget.{unit} must be a positive number, not {amount!r}")
        if unit in COUNTED and amount != int(amount):
            raise BadInput(f"budget.{unit} must be a whole number, not {amount!r}; parts of an epoch can be asked for")
        return cls(unit, amount)

    def course(self, batch_size: int, spec: DataSpec, sample_flops: float) -> Course:
        """What a run of this budget looks like from its first step.

        Args:
            batch_size: global samples a step.
            spec: the opened data.
            sample_flops: of a training step, divided by its samples.

        Raises:
            BadInput: the budget is smaller than one step, or counts tokens of data that have none.
        """
        if self.unit == "minutes":
            return Minutes(60 * self.amount)
        if self.unit == "tokens" and not spec.block_length:
            others = ", ".join(f"budget.{unit}" for unit in UNITS if unit != "tokens")
            raise BadInput(f"budget.tokens counts tokens of text, and '{spec.name}' has none; choices: {others}")
        samples = {
            "steps": self.amount * batch_size,
            "epochs": self.amount * spec.num_train,
            "samples": self.amount,
            "tokens": self.amount / max(spec.block_length, 1),
            "flops": self.amount / max(sample_flops, 1.0),
        }[self.unit]
        # epochs end within a batch: then the last batch is filled from the next epoch rather than dropped
        steps = math.ceil(samples / batch_size) if self.unit == "epochs" else int(samples / batch_size + 1e-9)
        if steps < 1:
            tokens = f", {batch_size * spec.block_length} tokens" if spec.block_length else ""
            raise BadInput(
                f"budget.{self.unit}={self.amount:g} is smaller than one step "
                f"({batch_size} samples{tokens}, {sample_flops * batch_size:.2g} FLOPs)"
            )
        return Steps(steps)
