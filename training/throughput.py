"""How fast a run is, against what its device could do: samples, FLOPs, the time that steps wait for data.

Model-FLOPs utilisation (Chowdhery et al. 2022, appendix B) is FLOPs of the training step, all networks, without what
activation checkpointing computes again, over the device's peak.
"""

import time
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch

from training.pretraining import LOGGED_EVERY, Pretraining

IDLE = 0.05  # share of the time without data from which on a run says how to have less of it

# TFLOP/s of dense matrix products (data sheets that count sparsity are halved): with 16-bit inputs, and in plain float32.
# The first name of which all words are in the device's own decides, so longer names stand first.
# Lightning has such a table too, but with sparse figures for the H200 and the H100 NVL.
PEAK = {
    "B200": (2250.0, 75.0),  # NVIDIA DGX B200 data sheet
    "H200 NVL": (835.5, 60.0),  # NVIDIA H200 data sheet
    "H200": (989.5, 67.0),
    "H100 NVL": (835.5, 60.0),  # NVIDIA H100 data sheet
    "H100 PCIe": (756.0, 51.0),
    "H100": (989.4, 67.0),
    "A100": (312.0, 19.5),  # NVIDIA A100 data sheet; SXM and PCIe alike
    "A30": (165.0, 10.3),  # NVIDIA A30 data sheet
    "A40": (149.7, 37.4),  # NVIDIA A40 data sheet
    "L40S": (362.0, 91.6),  # NVIDIA L40S data sheet
    "L40": (181.0, 90.5),  # NVIDIA L40 data sheet
    "L4": (121.0, 30.3),  # NVIDIA L4 data sheet
    "T4": (65.0, 8.1),  # NVIDIA T4 data sheet; float16
    "V100-PCIE": (112.0, 14.0),  # NVIDIA V100 data sheet; float16
    "V100": (125.0, 15.7),
}


def peak_flops(device_name: str, precision: str) -> float | None:
    """FLOP/s that a device could do at most, or None where that is not known."""

    def words(name: str) -> set[str]:
        return set(name.lower().replace("-", " ").split())

    known = (rates for name, rates in PEAK.items() if words(name) <= words(device_name))
    half, single = next(known, (None, None))
    rate = single if precision == "fp32" else half
    return None if rate is None else 1e12 * rate


@dataclass
class Window:
    """What happened since the last line in the log.

    Attributes:
        began: the run's training time by then, in seconds.
        waiting: seconds without a batch.
    """

    began: float = 0.0
    steps: int = 0
    waiting: float = 0.0


class Throughput(L.Callback):
    """Logs `throughput/...` every ten steps: samples and tokens a second, FLOP/s, utilisation, share of time without data.

    The share is of the time in which the process waited for a batch; a GPU may be busy meanwhile. Where it was large in all, a
    line at the end says what helps. It must be the last callback that trains, so that what others do between steps is not taken
    for waiting.

    Args:
        sample_flops: of a training step, per sample.
        sample_tokens: of text; other data have 1, and no line for tokens.
        precision: what products are computed in: "fp32", "bf16" or "fp16".
    """

    def __init__(self, sample_flops: float, sample_tokens: int, precision: str):
        self.sample_flops, self.sample_tokens, self.precision = sample_flops, sample_tokens, precision
        self._waited = self._elapsed = 0.0
        self.window = Window()
        self._ended: float | None = None
        self._peak: float | None = None

    def on_train_start(self, trainer: L.Trainer, module: Pretraining) -> None:
        if module.device.type == "cuda":
            self._peak = peak_flops(torch.cuda.get_device_name(module.device), self.precision)

    def on_train_batch_start(self, trainer: L.Trainer, module: Pretraining, *_: Any) -> None:
        if self._ended is not None:  # before the first step everything is still being set up
            self.window.waiting += time.perf_counter() - self._ended

    def on_train_batch_end(self, trainer: L.Trainer, module: Pretraining, *_: Any) -> None:
        course, seconds = module.course, module.watch.seconds
        if self._ended is None:  # nor is the first step like others: kernels are chosen and compiled
            self.window = Window(began=seconds)
        else:
            self.window.steps += 1
            if course.step % LOGGED_EVERY == 0 or course.finished:
                self._log(trainer, module, seconds)
        self._ended = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, module: Pretraining) -> None:
        if trainer.is_global_zero and module.course.step >= LOGGED_EVERY and self._waited > IDLE * self._elapsed:
            share = self._waited / self._elapsed
            print(f"{share:.0%} of the time went by waiting for data: more trainer.workers make batches beside the steps")

    def _log(self, trainer: L.Trainer, module: Pretraining, seconds: float) -> None:
        elapsed = max(seconds - self.window.began, 1e-9)
        self._waited, self._elapsed = self._waited + self.window.waiting, self._elapsed + elapsed
        samples = module.batch_size * self.window.steps / elapsed
        flops = samples * self.sample_flops
        values = {"samples_per_second": samples, "flops_per_second": flops, "data_share": self.window.waiting / elapsed}
        if self.sample_tokens > 1:
            values["tokens_per_second"] = samples * self.sample_tokens
        if self._peak is not None:
            values["mfu"] = flops / (self._peak * trainer.world_size)
        self.window = Window(began=seconds)
        if trainer.is_global_zero:
            trainer.logger.log_metrics({f"throughput/{name}": value for name, value in values.items()}, module.course.step)
