"""Training steps on one GPU: samples or tokens a second, model-FLOPs utilisation and peak memory, beside a bare loop.

Ours is train.py's Trainer with trainer=gpu trainer.compile=true trainer.half_stream=true in bf16; the bare loop has the same
objective, kernels and compiled blocks, and nothing else. Batches lie in pinned memory, each side has a process of its own.

    python benchmarks/gpu.py                     # all; a minute or a little more for each on an H100
    python benchmarks/gpu.py gpt2 mlm_base --batch 64
    python benchmarks/gpu.py --toy               # at toy size on the CPU: shows that it runs, measures nothing
"""

import argparse
import datetime
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.gate import SideFailed, SideProcess, processes
from benchmarks.record import RESULTS
from benchmarks.sides import bare, ours
from benchmarks.works import Work
from errors import nearest
from training.throughput import peak_flops

WARM = 5  # steps, the compilation among them
SIDES = {"ours": ours, "bare": bare}
HEADER = ("case", "", "a second", "MFU", "wanted", "memory", "ours / bare")


@dataclass(frozen=True)
class GpuCase:
    """A work, the same as a toy, and the utilisation that is wanted of it."""

    work: Work
    toy: Work
    mfu: float | None = None


TINY = ("model.width=32", "model.depth=1", "model.heads=2", "model.feedforward=64")
TINY_VIT = ("model.depth=1", "objective.decoder_width=32", "objective.decoder_depth=1", "objective.decoder_heads=2")
TINY_PAIR = (
    "model.name=vit_tiny_patch16_224", "model.depth=1",
    "objective.text_settings={width:64,depth:1,heads:2,feedforward:64}",
)  # fmt: skip
CASES = {
    "mlm_base": GpuCase(
        Work("mlm", "bert_base", batch=256, length=512, vocabulary=30522),
        Work("mlm", "bert_base", batch=4, length=16, vocabulary=64, words=TINY), 0.5,
    ),
    "gpt2": GpuCase(
        Work("causal_lm", "gpt2", batch=128, length=1024, vocabulary=50257),
        Work("causal_lm", "gpt2", batch=4, length=16, vocabulary=64, words=TINY), 0.5,
    ),
    "mae_vit_b": GpuCase(
        Work("mae", "vit_b", batch=512, image_size=224), Work("mae", "vit_t", batch=4, image_size=32, words=TINY_VIT)
    ),
    "mae_vit_l": GpuCase(
        Work("mae", "vit_l", batch=512, image_size=224), Work("mae", "vit_t", batch=4, image_size=32, words=TINY_VIT), 0.45
    ),
    "simclr_resnet50": GpuCase(
        Work("simclr", "resnet50", batch=256, image_size=224),
        Work("simclr", "resnet18", batch=4, image_size=8, words=("objective.projector_width=32",)),
    ),
    "clip_vit_b_32": GpuCase(
        Work("clip", "clip_vit_b", batch=1024, image_size=224, length=77, vocabulary=49408, words=("model.patch_size=32",)),
        Work("clip", "clip_vit_b", batch=4, image_size=32, length=8, vocabulary=64, words=TINY_PAIR),
    ),
}  # fmt: skip


def measured(process: SideProcess, work: Work, seconds: float) -> dict[str, float]:
    """Rate in units a second and peak memory of one side, which has the device for itself; then it is ended."""
    try:
        process.run(WARM)
        steps = max(2, round(seconds / (process.run(2)["seconds"] / 2)))
        facts = process.run(steps)
    finally:
        process.stop()
    return facts | {"rate": work.units_a_step * steps / facts["seconds"]}


def utilisation(work: Work, rate: float, sample_flops: float, peak: float | None) -> float | None:
    """Model-FLOPs utilisation at a rate in units a second."""
    return None if peak is None else rate / (work.units_a_step / work.batch) * sample_flops / peak


def rows(name: str, record: dict[str, Any]) -> list[list[str]]:
    """Lines of the table."""
    found = []
    for side, facts in record["sides"].items():
        mfu = "" if facts["mfu"] is None else f"{facts['mfu']:.1%}"
        wanted = f">= {record['mfu_wanted']:.0%}" if record["mfu_wanted"] and side == "ours" else ""
        speed = f"{facts['rate']:,.0f} {record['unit']}"
        gain = f"{facts['rate'] / record['sides']['bare']['rate']:.2f}" if side == "ours" else ""
        memory = f"{facts['peak_memory_bytes'] / 1e9:.1f} GB"
        found.append([f"{name}: {record['work']}" if side == "ours" else "", side, speed, mfu, wanted, memory, gain])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", help=f"any of {', '.join(CASES)}; by default all")
    parser.add_argument("--batch", type=int, help="samples a step instead of the cases' own")
    parser.add_argument("--seconds", type=float, default=5.0, help="that are timed of each side")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--wide-stream", action="store_true", help="trainer.half_stream=false, as by default")
    parser.add_argument("--toy", action="store_true", help="at toy size on the CPU")
    chosen = parser.parse_args()
    for name in chosen.case:
        if name not in CASES:
            parser.error(f"there is no case '{name}'; {nearest(name, CASES)}")
    if not chosen.toy and not torch.cuda.is_available():
        print("there is no GPU here, so nothing is measured; --toy runs all cases at toy size on the CPU")
        return 0
    accelerator = "cpu" if chosen.toy else "gpu"
    device = "CPU, toy size" if chosen.toy else torch.cuda.get_device_name()
    peak = None if chosen.toy else peak_flops(device, "bf16")
    print(f"{device}, torch {torch.__version__}, " + (f"peak {peak / 1e12:,.0f} TFLOP/s in bf16" if peak else "peak not known"))
    folder = Path(tempfile.mkdtemp()) if chosen.toy else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    records, failed = {}, 0
    for name in chosen.case or CASES:
        case, began = CASES[name], time.perf_counter()
        work = case.toy if chosen.toy else case.work.with_batch(chosen.batch or case.work.batch)
        settings = {} if chosen.toy else {"compile": not chosen.no_compile, "half_stream": not chosen.wide_stream}
        seconds = 0.1 if chosen.toy else chosen.seconds
        arguments = (work, "fp32" if chosen.toy else "bf16", accelerator, settings)
        try:
            with processes({side: (loop, arguments) for side, loop in SIDES.items()}) as waiting:
                sides = {side: measured(process, work, seconds) for side, process in waiting.items()}
        except SideFailed as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        for facts in sides.values():
            facts["mfu"] = utilisation(work, facts["rate"], sides["ours"]["sample_flops"], peak)
        records[name] = {"work": work.described(), "unit": work.unit, "mfu_wanted": case.mfu, "sides": sides}
        spoken = ", ".join(f"{row[1]} {row[2]}/s {row[3]}".strip() for row in rows(name, records[name]))
        print(f"{name}: {time.perf_counter() - began:.0f} s, {spoken}", flush=True)
        facts = {"device": device, "date": datetime.date.today().isoformat(), "machine": machine.described(rates=False)}
        (folder / "gpu.json").write_text(json.dumps(facts | {"gpu": records}, indent=1) + "\n", encoding="utf-8")
    table = Table(*HEADER)
    for name, record in records.items():
        for row in rows(name, record):
            table.add_row(*row)
    Console(width=max(140, Console().width)).print(table)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
