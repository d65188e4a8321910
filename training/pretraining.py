"""The one LightningModule: an objective, how its weights are moved, and where the run stands."""

from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from errors import BadInput, RunStopped
from objectives.draw import Draw
from objectives.objective import Batch, Objective, Outcome
from objectives.targets import parts_of_a_step
from training.accumulation import split_batch
from training.arrangement import Arrangement
from training.course import Course, Stopwatch
from training.optimization import Optimization
from training.ranks import mean_scalars, sum_over_ranks

LOGGED_EVERY = 10  # steps


class Pretraining(L.LightningModule):
    """Trains an objective until its budget is spent.

    Args:
        objective: what is learned.
        optimization: how.
        course: how far the run is; the schedule spans it.
        batch_size: global samples a step.
        seed: of every draw, and of dropout.
        plain: what every checkpoint carries besides weights and states (the config, the encoder's recipe): plain containers.
            Its "data", `DataSpec.facts`, must be the same when a run goes on.
        arrangement: on how many devices, in how many parts and how compiled it runs; by default none of that.

    Attributes:
        watch: training time.
        loss, report: of the last step, the mean over ranks and parts.
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
        arrangement: Arrangement | None = None,
    ):
        super().__init__()
        self.objective, self.optimization = objective, optimization
        self.course, self.batch_size, self.seed, self.plain = course, batch_size, seed, plain or {}
        self.arrangement = arrangement or Arrangement()
        optimization.optimizer(objective, batch_size)  # what its class refuses is refused before anything is written
        self.watch = Stopwatch()
        self.loss = self.first_loss = torch.tensor(float("nan"))
        self.report: dict[str, Tensor] = {}
        self._corrupt_samples: int | Tensor = 0
        self._counts_targets = True

    def configure_model(self) -> None:
        self.arrangement.apply(self.objective, self._device_mesh)

    @contextmanager
    def whole(self) -> Iterator[Objective | None]:
        """The objective with all of its weights, on the first rank; None on the others. All ranks must ask."""
        with self.arrangement.whole(self.objective) as objective:
            yield objective

    def on_train_start(self) -> None:
        self.watch.start()
        self.trainer.should_stop = self.course.finished  # resumed after its last step: only the result is missing

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self._corrupt_samples += batch.get("corrupt", 0)  # not read here: reading from a GPU waits for it
        parts = split_batch(batch, self.arrangement.accumulate)
        outcomes = [self._forward(batch, 0)] if len(parts) == 1 else self._forward_in_parts(parts)
        names = list(outcomes[0].report)
        columns = zip(*([outcome.loss, *outcome.report.values()] for outcome in outcomes), strict=True)
        self.loss, *values = mean_scalars([torch.stack([x.detach().float() for x in column]).mean() for column in columns])
        self.report = dict(zip(names, values, strict=True))
        if self.global_step == 0:
            self.first_loss = self.loss
        if self.loss.device.type == "cpu":
            self.stop_if_not_finite()
        return outcomes[-1].loss / len(parts)

    def on_train_batch_end(self, *_: object) -> None:
        # reading a GPU's loss waits for it: when it is logged, which callbacks do before this, one has waited already
        if self.loss.device.type != "cpu" and self.course.step % LOGGED_EVERY == 0:
            self.stop_if_not_finite()

    def _forward(self, batch: Batch, part: int) -> Outcome:
        # dropout and stochastic depth too are functions of (seed, rank and part, step): a resumed run needs no generator state
        place = self.global_rank * self.arrangement.accumulate + part
        seed_generators(((self.seed * 1_000_003 + place) * 1_000_003 + self.global_step) % 2**63, self.device)
        return self.objective(batch, Draw(self.seed, batch["epoch"], batch["index"]))

    def _forward_in_parts(self, parts: list[Batch]) -> list[Outcome]:
        """Forward all parts, backward all but the last, which Lightning does; so one batch stays one step for everybody."""
        counts: list[Tensor] = []
        for batch in parts if self._counts_targets else []:
            with parts_of_a_step(len(parts), counting=True, counts=counts), torch.no_grad():
                self._forward(batch, 0)
            if not counts:
                self._counts_targets = False  # nor will it in later steps: its loss is a mean over samples
                break
        outcomes = []
        for part, batch in enumerate(parts):
            with parts_of_a_step(len(parts), counts=counts):
                outcomes.append(self._forward(batch, part))
            if part < len(parts) - 1:
                with torch.autocast(self.device.type, enabled=False):
                    # DDP shares gradients in the last backward pass only, FSDP in each
                    self.trainer.strategy.backward(outcomes[-1].loss / len(parts), None)
        return outcomes

    def optimizer_zero_grad(self, *arguments: object) -> None:
        """Lightning asks between forward and backward; here they went with the last step, see `optimizer_step`."""

    def stop_if_not_finite(self, weights: bool = False) -> None:
        """Raise RunStopped when the last loss, or on request a weight after the last update, is NaN or infinite.

        All ranks raise it or none.
        """
        what = None if torch.isfinite(self.loss) else f"the loss is {self.loss.item()}"
        if what is None and weights:
            what = self._broken_weight()
        if what is not None:
            raise RunStopped(
                f"{what} at {self.course.position}, learning rate {self.lr:.2g}; "
                f"try a smaller optimizer.base_lr or optimizer.clip_norm=1",
                exit_code=1,
                everywhere=True,
            )

    def _broken_weight(self) -> str | None:
        broken = (name for name, weight in self.objective.named_parameters() if not _local(weight).isfinite().all())
        name = next(broken, None)
        if sum_over_ranks(name is not None) == 0:  # where weights are sharded, each rank sees only its own
            return None
        return f"the weights '{name}' are no longer finite" if name else "some weights are no longer finite"

    @property
    def corrupt_samples(self) -> int:
        """How many samples of this rank could not be read."""
        return int(self._corrupt_samples)

    @property
    def lr(self) -> float:
        """The largest; of embedding tables, which may have a factor of their own, only where nothing else is trained."""
        groups = self.optimizers().param_groups
        others = [group for group in groups if not group.get("embedding")]
        return max(group["lr"] for group in others or groups)

    def optimizer_step(self, *arguments: object, **settings: object) -> None:
        self.optimization.move_weight_decay(self.optimizers().param_groups, self.global_step, self.course.num_steps)
        super().optimizer_step(*arguments, **settings)
        self.optimizers().zero_grad()  # not after the next forward pass, or its activations would lie beside old gradients
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
            "corrupt_samples": sum_over_ranks(self.corrupt_samples),
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        recorded = checkpoint["headstart"]
        changed = first_change(recorded.get("data", {}), self.plain.get("data", {}))
        if changed is not None:
            raise BadInput(f"the data changed ({changed}); begin a new run")
        own, saved = self.state_dict(), checkpoint["state_dict"]
        wrong = [f"{name} is missing" for name in own if name not in saved]
        wrong += [f"{name} is unexpected" for name in saved if name not in own]
        wrong += [name for name in own if name in saved and own[name].shape != saved[name].shape]
        if wrong:
            raise BadInput(f"the checkpoint does not fit this run's configuration: {wrong[0]} ({len(wrong)} differences)")
        self.watch.before, self.watch.paused = recorded["seconds"], recorded["paused"]
        self.first_loss, self.loss = (torch.tensor(recorded[name]) for name in ("first_loss", "loss"))
        if self.global_rank == 0:
            self._corrupt_samples = recorded["corrupt_samples"]
        self.course.advance(checkpoint["global_step"], self.watch.before)


def first_change(then: dict[str, int | list[str]], now: dict[str, int | list[str]]) -> str | None:
    """The first of the facts about data that is not what it was, as one line; earlier versions recorded none."""
    for name, before in then.items():
        after = now.get(name, before)
        if before == after:
            continue
        if isinstance(before, list):
            same_number = len(before) == len(after)
            pairs = zip(before, after, strict=True) if same_number else [(len(before), len(after))]
            before, after = next(pair for pair in pairs if pair[0] != pair[1])
        return f"{name}: {before} then, {after} now"
    return None


def _local(weight: Tensor) -> Tensor:
    """What this rank holds of a weight."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def seed_generators(seed: int, device: torch.device) -> None:
    """Of the host and of one device; torch.manual_seed asks after all kinds of device there are, which takes milliseconds."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
