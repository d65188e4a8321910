"""From the config node `trainer` (speed, never science) to a Lightning Trainer, every `auto` resolved and printed."""

import logging
import signal
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from conf.collector import collect_as_usual
from errors import BadInput, RunStopped, nearest
from models.attention import choose_attention, has_bf16, has_triton, kernels_used, set_attention
from models.biased_gelu import fuse_gelu
from models.encoder import Encoder
from models.fused import as_written
from objectives.objective import Batch
from training.ahead import Ahead
from training.allocator import give_back_holes, keep_freed_memory
from training.checkpoint_files import PlainFiles
from training.course import Course
from training.ranks import Ranks
from training.sharding import Sharded

MOST_WORKERS = 8
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def build_trainer(
    settings: dict[str, Any],
    folder: Path,
    course: Course,
    clip_norm: float | None,
    callbacks: list[L.Callback],
    ranks: Ranks | None = None,
    resumed_at: int | None = None,
) -> L.Trainer:
    """A Trainer that runs a course as one Lightning epoch over the endless order of samples.

    Args:
        ranks: this process among those of the run; by default it is alone.
        resumed_at: the step that a run goes on from; what was logged after it is forgotten.

    Raises:
        BadInput: a precision that does not exist.
    """
    _quieten()
    ranks = ranks or Ranks()
    return L.Trainer(
        accelerator=settings["accelerator"],
        devices=ranks.local_size,
        num_nodes=ranks.num_nodes,
        strategy=_strategy(settings, ranks),
        precision=PRECISIONS[resolve_precision(settings["precision"], device_type(settings["accelerator"]))],
        max_steps=course.most_steps,
        max_epochs=1,
        gradient_clip_val=clip_norm,
        logger=TensorBoardLogger(
            folder, name=None, version="tensorboard", purge_step=None if resumed_at is None else resumed_at + 1
        ),
        callbacks=callbacks,
        plugins=[PlainFiles(), TorchElasticEnvironment() if ranks.size > 1 else LightningEnvironment()],
        use_distributed_sampler=False,  # the order knows its rank
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def fit(trainer: L.Trainer, module: L.LightningModule, loader: Iterable[Batch], resume_point: Path | None = None) -> None:
    """Train, from a checkpoint if there is one.

    Raises:
        BadInput: something in the checkpoint is not what training goes on from.
        KeyboardInterrupt: before the first step; later `Checkpoints` answers the signal.
        RunStopped: by a signal.
    """
    begun = _Begun()
    trainer.callbacks.append(begun)
    device = trainer.strategy.root_device
    loader = Ahead(loader, device) if device.type == "cuda" else loader
    try:
        with as_written():  # when it is over again
            trainer.fit(module, loader, ckpt_path=resume_point, weights_only=True)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if resume_point is None or begun.begun or isinstance(error, torch.OutOfMemoryError) or "Allocator" in str(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise BadInput(f"checkpoint '{resume_point}' cannot be gone on from: {reason}") from error
    except SIGTERMException as ending:  # without `Checkpoints`; a SystemExit of Lightning's that would say nothing and be 0
        raise RunStopped("stopped by SIGTERM", 128 + signal.SIGTERM) from ending
    except SystemExit as ending:  # that is what Lightning makes of Ctrl-C, without a word
        raise ending.__context__ or ending from None


class _Begun(L.Callback):
    """Knows whether the first step is done.

    By then all of a checkpoint has been taken over, of which the optimiser looks at its part in that step only, and all that
    stays in memory is there.
    """

    begun = False

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if not self.begun and module.device.type == "cpu":
            give_back_holes()
        self.begun = True


def _strategy(settings: dict[str, Any], ranks: Ranks) -> Strategy | str:
    if ranks.size == 1:
        return "auto"
    if settings["strategy"] == "fsdp":
        return Sharded(ranks.size, settings["sharded_checkpoints"])
    # buffers are the same on all ranks by construction: statistics are synchronised, tables constant
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)


def prepare_speed(module: nn.Module, settings: dict[str, Any], local_ranks: int = 1) -> dict[str, Any]:
    """Set the kernels of attention and, on a GPU, of GELU inside a module, Python's collector and on a CPU the allocator.

    Returns what every `auto` became, for log and result; `local_ranks` processes share this machine's cores.

    Raises:
        BadInput: a setting is none of its choices, or the accelerator is not here.
    """
    _check_accelerator(settings["accelerator"])
    collect_as_usual()
    device = device_type(settings["accelerator"])
    if device == "cpu":
        keep_freed_memory()
    precision = resolve_precision(settings["precision"], device)
    longest = max(encoder.num_tokens for encoder in module.modules() if isinstance(encoder, Encoder))
    kernel, reason = choose_attention(settings["attention"], device, precision, longest)
    set_attention(module, kernel)
    if has_triton(device):
        fuse_gelu(module)
    used = " and ".join(sorted(kernels_used(module)))
    attention = f"{used} ({reason})" if used else "none (no attention layers)"
    workers = resolve_workers(settings["workers"], device, local_ranks)
    return {"device": device, "precision": precision, "attention": attention, "workers": workers}


def device_type(accelerator: str) -> str:
    """ "cpu", "cuda" or "mps" for Lightning's accelerator names."""
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        return "cuda"
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return "mps"
    return "cpu"


def resolve_precision(choice: str, device: str) -> str:
    """ "auto" is bf16 where the hardware multiplies it fast, else fp32."""
    if choice == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    if choice not in PRECISIONS:
        raise BadInput(f"there is no precision '{choice}'; {nearest(choice, ['auto', *PRECISIONS])}")
    return choice


def resolve_workers(choice: int | str, device: str, local_ranks: int = 1) -> int:
    """ "auto" is a share of the cores beside a GPU, which decoding would keep waiting; on a CPU the step needs all of them."""
    if choice != "auto":
        return choice
    if device != "cuda":
        return 0
    from joblib import cpu_count  # knows the limits of a container; half a second that a CPU need not wait

    return min(MOST_WORKERS, max(1, cpu_count() // local_ranks - 1))


def _check_accelerator(name: str) -> None:
    here = [known for known in ("cpu", "cuda", "mps") if AcceleratorRegistry[known]["accelerator"].is_available()]
    if name == "auto" or name in here or (name == "gpu" and len(here) > 1):
        return
    raise BadInput(f"accelerator '{name}' is not on this machine; {nearest(name, ['auto', *here])}")


def _quieten() -> None:
    """Lightning's advice is for code that hides these choices; here they are made and printed above."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*has arrived.*",
        ".*dataloader is not resumable.*",
        ".*treespec.*",
        ".*log_every_n_steps.*",
        ".*broadcast_buffers.*",
        ".*in eval mode at the start of training.*",  # towers that are locked, teachers
    ):
        warnings.filterwarnings("ignore", message)
