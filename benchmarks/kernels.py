"""In which kernels a training step on a CPU spends its time, beside what its matrix products alone must take.

python benchmarks/kernels.py mae mae_vit_b          # at the size and precision of run.py
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import matmul_flops
from benchmarks.overhead import CASES
from benchmarks.run import case_named
from benchmarks.sides import HALF, trainer_settings
from benchmarks.works import Work
from conf import build
from errors import nearest
from objectives.draw import Draw
from reports.markdown import plain_table
from training.flops import sample_flops
from training.trainer import prepare_speed, resolve_precision

WARM = 2  # steps before the clock runs
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


def step_of(work: Work, precision: str) -> tuple[Callable[[int], None], float]:
    """(one step of the bare loop, given its number; FLOPs of it)."""
    objective = work.build()
    prepare_speed(objective, trainer_settings(work, precision, "cpu"))
    batches = work.batches(objective)
    optimizer = build(work.config["optimizer"]).optimizer(objective, work.batch)
    flops = sample_flops(objective, batches.batch(0), work.batch) * work.batch

    def step(number: int) -> None:
        batch = batches.batch(number)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", HALF.get(precision), enabled=precision in HALF):
            loss = objective(batch, Draw(0, batch["epoch"], batch["index"])).loss
        loss.backward()
        optimizer.step()

    return step, flops


def kind_of(kernel: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(part in kernel for part in parts)), "the rest")


def measured(work: Work, precision: str, num_steps: int) -> dict[str, float]:
    """Seconds of the fastest step, those that its products take at the measured rate, and shares of the time by kind."""
    step, flops = step_of(work, precision)
    took = []
    for number in range(WARM + num_steps):
        began = time.perf_counter()
        step(number)
        took.append(time.perf_counter() - began)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step(WARM + num_steps)
    seconds = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in profiled.key_averages():
        seconds[kind_of(event.key)] += event.self_cpu_time_total
    total = sum(seconds.values())
    bound = flops / matmul_flops(HALF.get(precision, torch.float32))
    return {"step": min(took[WARM:]), "bound": bound} | {kind: part / total for kind, part in seconds.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="+", help=f"any of {', '.join(CASES)}")
    parser.add_argument("--steps", type=int, default=5, help="of which the fastest counts")
    parser.add_argument("--toy", action="store_true", help="at toy size: shows that it runs, measures nothing")
    chosen = parser.parse_args()
    for name in chosen.case:
        if name not in CASES:
            parser.error(f"there is no case '{name}'; {nearest(name, CASES)}")
    precision = resolve_precision("auto", "cpu")
    rows = []
    for name in chosen.case:
        found = measured(case_named(name).at(precision, chosen.toy), precision, chosen.steps)
        seconds = [f"{found.pop(what):.3g} s" for what in ("step", "bound")]
        rows.append([f"{name}, {precision}", *seconds, *(f"{share:.1%}" for share in found.values())])
    print(plain_table(("case", "step", "products at the measured rate", *KINDS, "the rest"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
