"""The one LightningModule: an objective, how its weights are moved, and where the run stands."""

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from errors import RunStopped
from objectives.draw import Draw
from objectives.objective import Batch, Objective
from training.course import Course, Stopwatch
from training.optimization import Optimization


class Pretraining(L.LightningModule):
    """Trains an objective until its budget is spent.

    Args:
        objective: what is learned.
        optimization: how.
        course: how far the run is; the schedule spans it.
        batch_size: global samples a step.
        seed: of every draw, and of dropout.
        plain: what every checkpoint carries besides weights and states (the config, the encoder's recipe): plain containers.

    Attributes:
        watch: training time.
        first_loss: of the run's first step.
    """

    def __init__(
        self,
        objective: Objective,
        optimization: Optimization,
        course: Course,
        batch_size: int,
        seed: int,
        plain: dict | None = None,
    ):
        super().__init__()
        self.objective, self.optimization = objective, optimization
        self.course, self.batch_size, self.seed, self.plain = course, batch_size, seed, plain or {}
        self.watch = Stopwatch()
        self.loss = self.first_loss = torch.tensor(float("nan"))
        self.report: dict[str, Tensor] = {}
        self.corrupt_samples = 0

    def on_train_start(self) -> None:
        self.watch.start()
        self.trainer.should_stop = self.course.finished  # resumed after its last step: only the result is missing

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        step = self.global_step
        # dropout and stochastic depth too are functions of (seed, rank, step): a resumed run needs no generator state
        torch.manual_seed((self.seed * 1_000_003 + self.global_rank) * 1_000_003 + step)
        self.corrupt_samples += int(batch.get("corrupt", 0))
        outcome = self.objective(batch, Draw(self.seed, batch["epoch"], batch["index"]))
        self.loss, self.report = outcome.loss.detach(), outcome.report
        if step == 0:
            self.first_loss = self.loss
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
                f"{what} at {self.course.position}, learning rate {self.lr:.2g}; "
                f"try a smaller optimizer.base_lr or optimizer.clip_norm=1",
                exit_code=1,
            )

    @property
    def lr(self) -> float:
        return max(group["lr"] for group in self.optimizers().param_groups)

    def optimizer_step(self, *arguments: object, **settings: object) -> None:
        super().optimizer_step(*arguments, **settings)
        # not in on_train_batch_end: the schedule moves before it, and callbacks save checkpoints there
        seconds = self.watch.seconds
        if self.course.timed:
            seconds = self.trainer.strategy.broadcast(seconds)  # ranks that stop at different steps would wait for each other
        self.course.advance(self.global_step + 1, seconds)
        self.trainer.should_stop |= self.course.finished
        self.objective.after_step(self.course.progress)

    def configure_optimizers(self) -> dict:
        optimizer = self.optimization.optimizer(self.objective, self.batch_size)
        schedule = LambdaLR(optimizer, lambda step: self.optimization.lr_factor(step, self.course.num_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["headstart"] = {
            **self.plain,
            "position": self.course.position,
            "finished": self.course.finished,
            "seconds": self.watch.seconds,
            "paused": self.watch.paused,
            "first_loss": self.first_loss.item(),
            "loss": self.loss.item(),
            "corrupt_samples": self.corrupt_samples,
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        recorded = checkpoint["headstart"]
        self.watch.before, self.watch.paused = recorded["seconds"], recorded["paused"]
        self.first_loss, self.loss = (torch.tensor(recorded[name]) for name in ("first_loss", "loss"))
        self.corrupt_samples = recorded["corrupt_samples"]
        self.course.advance(checkpoint["global_step"], self.watch.before)
