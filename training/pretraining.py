"""The one LightningModule: an objective, how its weights are moved, and where the run stands."""

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from errors import RunStopped
from objectives.draw import Draw
from objectives.objective import Batch, Objective
from training.optimization import Optimization


class Pretraining(L.LightningModule):
    """Trains an objective for a number of steps.

    Args:
        objective: what is learned.
        optimization: how.
        num_steps: the whole run, which the schedule spans.
        batch_size: global samples a step.
        seed: of every draw, and of dropout.
        plain: what every checkpoint carries besides weights and states (the config, the encoder's recipe): plain containers.
    """

    def __init__(
        self,
        objective: Objective,
        optimization: Optimization,
        num_steps: int,
        batch_size: int,
        seed: int,
        plain: dict | None = None,
    ):
        super().__init__()
        self.objective, self.optimization = objective, optimization
        self.num_steps, self.batch_size, self.seed, self.plain = num_steps, batch_size, seed, plain or {}
        self.loss = torch.tensor(float("nan"))
        self.report: dict[str, Tensor] = {}
        self.corrupt_samples = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        step = self.global_step
        # dropout and stochastic depth too are functions of (seed, rank, step): a resumed run needs no generator state
        torch.manual_seed((self.seed * 1_000_003 + self.global_rank) * 1_000_003 + step)
        self.corrupt_samples += int(batch.get("corrupt", 0))
        outcome = self.objective(batch, Draw(self.seed, batch["epoch"], batch["index"]))
        self.loss, self.report = outcome.loss.detach(), outcome.report
        if self.loss.device.type == "cpu" or step % 10 == 0:  # reading a GPU's loss waits for it
            self.stop_if_not_finite()
        return outcome.loss

    def stop_if_not_finite(self, weights: bool = False) -> None:
        """Raise RunStopped when the last loss, or on request a weight after the last update, is NaN or infinite."""
        what = None if torch.isfinite(self.loss) else f"the loss is {self.loss.item()}"
        if what is None and weights:
            broken = (name for name, weight in self.objective.named_parameters() if not torch.isfinite(weight).all())
            name = next(broken, None)
            what = None if name is None else f"the weights '{name}' are no longer finite"
        if what is not None:
            raise RunStopped(
                f"{what} at step {self.global_step} of {self.num_steps}, learning rate {self.lr:.2g}; "
                f"try a smaller optimizer.base_lr or optimizer.clip_norm=1",
                exit_code=1,
            )

    @property
    def lr(self) -> float:
        return max(group["lr"] for group in self.optimizers().param_groups)

    def optimizer_step(self, *arguments: object, **settings: object) -> None:
        self.optimization.move_weight_decay(self.optimizers().param_groups, self.global_step, self.num_steps)
        super().optimizer_step(*arguments, **settings)
        # not in on_train_batch_end: callbacks save checkpoints there, and a teacher must have moved before
        self.objective.after_step(min(1.0, (self.global_step + 1) / self.num_steps))

    def configure_optimizers(self) -> dict:
        optimizer = self.optimization.optimizer(self.objective, self.objective.encoder, self.batch_size)
        schedule = LambdaLR(optimizer, lambda step: self.optimization.lr_factor(step, self.num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["headstart"] = {**self.plain, "num_steps": self.num_steps, "corrupt_samples": self.corrupt_samples}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.corrupt_samples = checkpoint["headstart"]["corrupt_samples"]
