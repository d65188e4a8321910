"""In which kernels a training step on a CPU spends its time, beside what its matrix products alone must take.

The step is that of the bare loop, at the size and in the precision of `run.py`.

    python benchmarks/kernels.py mae mae_vit_b
"""

import argparse
import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases.case import case_named
from benchmarks.gate import until_stopped
from benchmarks.machine import matmul_flops
from benchmarks.overhead import cases_asked, table_of, watched_cases
from benchmarks.run import WARM
from benchmarks.sides import HALF, bare
from benchmarks.works import Work
from training.flops import sample_flops
from training.trainer import resolve_precision

KINDS = {  # of kernels, by what their names contain; the first that fits
    "matrix products": ("aten::mm", "addmm"),
    "attention": ("bmm", "attention"),  # products, or the fused kernel
    "convolutions": ("convolution",),
    "softmax": ("softmax",),
    "activation": ("gelu", "relu", "silu", "sigmoid", "tanh"),
    "norms": ("norm", "var_mean"),
    "copies and conversions": ("copy_", "cat", "clone", "contiguous"),
    "update": ("_fused_",),
}


class Finished(Exception):
    """Enough steps have been seen."""


class Watch:
    """A gate that times some steps, profiles one more, and ends the loop."""

    def __init__(self, num_steps: int):
        self.num_steps, self.took, self.profiled = num_steps, [], profile(activities=[ProfilerActivity.CPU])

    def describe(self, **facts: float) -> None:
        self._began = time.perf_counter()

    def step(self, **facts: float) -> None:
        self.took.append(time.perf_counter() - self._began)
        if len(self.took) == WARM + self.num_steps:
            self.profiled.start()
        elif len(self.took) > WARM + self.num_steps:
            self.profiled.stop()
            raise Finished
        self._began = time.perf_counter()

    @property
    def fastest(self) -> float:
        return min(self.took[WARM:-1])


def kind_of(kernel: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(part in kernel for part in parts)), "the rest")


def measured(work: Work, precision: str, num_steps: int) -> dict[str, float]:
    """Seconds of the fastest step, those that its products take at the measured rate, and shares of the time by kind."""
    objective = work.build()
    flops = sample_flops(objective, work.batches(objective).batch(0), work.batch) * work.batch
    watch = Watch(num_steps)
    with suppress(Finished):
        bare(watch, work, precision)
    seconds = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in watch.profiled.key_averages():
        seconds[kind_of(event.key)] += event.self_cpu_time_total
    bound = flops / matmul_flops(HALF.get(precision, torch.float32))
    return {"step": watch.fastest, "bound": bound} | {kind: part / sum(seconds.values()) for kind, part in seconds.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="of which the fastest counts")
    chosen = cases_asked(parser)
    if chosen.steps < 1:
        parser.error(f"--steps must be 1 or more, not {chosen.steps}")
    precision = resolve_precision("auto", "cpu")
    with table_of("case", "step", "products at the measured rate", *KINDS, "the rest") as rows:
        for name in watched_cases(chosen.case):
            found = measured(case_named(name).at(precision, chosen.toy), precision, chosen.steps)
            seconds = [f"{found.pop(what):.3g} s" for what in ("step", "bound")]
            rows.append([f"{name}, {precision}", *seconds, *(f"{share:.1%}" for share in found.values())])
    return 0


if __name__ == "__main__":
    sys.exit(until_stopped(main))
