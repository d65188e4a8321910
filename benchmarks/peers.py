"""The loops of other tools, as their documentation runs them; what is trained in them is each case's own."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.gate import Gate
from benchmarks.sides import HALF, StepEnds, num_trained
from benchmarks.works import ENDLESS
from training.trainer import PRECISIONS

LR = 1e-4
MANY = 2**16  # samples of an epoch, of whose order a Trainer makes a list


class Repeated(Dataset):
    """A long data set of which few samples are stored."""

    def __init__(self, stored: Sequence[Any], make: Callable[[Any], Any]):
        self.stored, self.make = stored, make

    def __len__(self) -> int:
        return MANY

    def __getitem__(self, index: int) -> Any:
        return self.make(self.stored[index % len(self.stored)])


def huggingface_trainer(
    gate: Gate, model: nn.Module, data: Dataset, batch: int, precision: str, collator: Callable[..., Any] | None = None
) -> None:
    """transformers' Trainer (its documentation, "Fine-tuning"), without reports and checkpoints."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class StepEnd(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            gate.step()

    gate.describe(parameters=num_trained(model))
    arguments = TrainingArguments(
        tempfile.mkdtemp(), per_device_train_batch_size=batch, max_steps=ENDLESS, learning_rate=LR, use_cpu=True,
        bf16=precision == "bf16", report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, arguments, data_collator=collator, train_dataset=data, callbacks=[StepEnd()]).train()


def lightning_trainer(gate: Gate, module: L.LightningModule, loader: DataLoader, precision: str) -> None:
    """A Lightning Trainer, as lightly's examples run their modules."""
    gate.describe(parameters=num_trained(module))
    trainer = L.Trainer(
        accelerator="cpu", devices=1, precision=PRECISIONS[precision], max_steps=ENDLESS, callbacks=[StepEnds(gate)],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader)


def plain_loop(
    gate: Gate,
    networks: Sequence[nn.Module],
    loss: Callable[[Any], Tensor],
    batches: Iterable[Any],
    precision: str,
    after_step: Callable[[], None] | None = None,
) -> None:
    """What a user writes: forward under autocast, backward, step."""
    weights = list({id(weight): weight for network in networks for weight in network.parameters()}.values())
    optimizer = torch.optim.AdamW(weights, LR)
    gate.describe(parameters=num_trained(*networks))
    for batch in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", HALF.get(precision), enabled=precision in HALF):
            value = loss(batch)
        value.backward()
        optimizer.step()
        if after_step is not None:
            after_step()
        gate.step()
