"""Training steps on one GPU: samples or tokens a second, model-FLOPs utilisation and peak memory, beside a bare loop.

Ours is train.py's Trainer with trainer=gpu trainer.compile=true trainer.half_stream=true in bf16; the bare loop has the same
objective, kernels and compiled blocks, and nothing else. Batches lie in pinned memory, each side has a process of its own. A
second table says in which kernels a step of the bare loop spends its time, a third what changes in a row of steps.

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
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks import gpu_kernels, gpu_power, machine
from benchmarks.gate import Side, SideFailed, SideProcess, processes, until_stopped
from benchmarks.gpu_tables import spoken, tell
from benchmarks.record import RESULTS, write_json
from benchmarks.sides import ours
from benchmarks.works import Work
from errors import nearest
from training.throughput import peak_flops

WARM = gpu_kernels.ALONE + gpu_kernels.ROW  # steps, the compilation among them; the last are profiled


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


def measured(process: SideProcess, work: Work, seconds: float, card: str | None) -> dict[str, Any]:
    """Rate in units a second and peak memory of one side, which has the device for itself; then it is ended."""
    with process:
        process.run(WARM)
        steps = max(2, round(seconds / (process.run(2)["seconds"] / 2)))
        with gpu_power.watched(card) as power:
            facts = process.run(steps)
    return facts | {"rate": work.units_a_step * steps / facts["seconds"], "power": power}


def utilisation(work: Work, rate: float, sample_flops: float, peak: float | None) -> float | None:
    """Model-FLOPs utilisation at a rate in units a second."""
    return None if peak is None else rate / (work.units_a_step / work.batch) * sample_flops / peak


def sides_of(work: Work, *arguments: Any) -> dict[str, tuple[Side, tuple[Any, ...]]]:
    """Both sides of a work, for `processes`."""
    return {"ours": (ours, (work, *arguments)), "bare": (gpu_kernels.profiled_bare, (work, *arguments))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", help=f"any of {', '.join(CASES)}; by default all")
    parser.add_argument("--batch", type=int, help="samples a step instead of the cases' own")
    parser.add_argument("--seconds", type=float, default=3.0, help="that are timed of each side")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--wide-stream", action="store_true", help="trainer.half_stream=false, as by default")
    parser.add_argument("--toy", action="store_true", help="at toy size on the CPU")
    parser.add_argument("--table", action="store_true", help="print the records that there are, measure nothing")
    chosen = parser.parse_args()
    for name in chosen.case:
        if name not in CASES:
            parser.error(f"there is no case '{name}'; {nearest(name, CASES)}")
    file = RESULTS / "gpu.json"
    if chosen.table:
        if not file.exists():
            parser.error("there are no records; python benchmarks/gpu.py makes them where a GPU is")
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            tell(found["gpu"], found["rates"])
        except (KeyError, ValueError) as error:
            parser.error(f"the records in {file} cannot be read: {error}")
        return 0
    if not chosen.toy and not torch.cuda.is_available():
        print("there is no GPU here, so nothing is measured; --toy runs all cases at toy size on the CPU")
        return 0
    settings, peak, rates = {}, None, None
    if chosen.toy:
        device, seconds, arguments = "CPU, toy size", 0.1, ("fp32", "cpu", settings)
        works = {name: CASES[name].toy for name in chosen.case or CASES}
    else:
        device, seconds = torch.cuda.get_device_name(), chosen.seconds
        peak, rates = peak_flops(device, "bf16"), gpu_kernels.rates()
        settings |= {"compile": not chosen.no_compile, "half_stream": not chosen.wide_stream}
        works = {name: CASES[name].work.with_batch(chosen.batch or CASES[name].work.batch) for name in chosen.case or CASES}
        arguments = ("bf16", "gpu", settings)
    print(f"{device}, torch {torch.__version__}, peak {f'{peak / 1e12:,.0f} TFLOP/s in bf16' if peak else 'not known'}")
    if chosen.toy or chosen.no_compile or chosen.wide_stream or chosen.batch:  # what the records are not of
        file = Path(tempfile.mkdtemp()) / file.name
    records = measure(works, arguments, seconds, peak, {"device": device, "rates": rates}, file)
    tell(records, rates)
    print(f"records: {file}")
    return int(len(records) < len(works))


def measure(
    works: dict[str, Work], arguments: tuple[Any, ...], seconds: float, peak: float | None, facts: dict[str, Any], file: Path
) -> dict[str, dict[str, Any]]:
    """Records of the cases that did not fail, written down after each."""
    facts = facts | {"date": datetime.date.today().isoformat(), "machine": machine.described(rates=False)}
    names, running, records = list(works), {}, {}
    card = gpu_power.card() if facts["rates"] else None
    kept = kept_records(file, facts)
    with ExitStack() as ended:
        for place, name in enumerate(names):
            began, work = time.perf_counter(), works[name]
            for near in names[place : place + 2]:  # the next case imports while this one compiles
                if near not in running:
                    running[near] = ended.enter_context(processes(sides_of(works[near], *arguments)))
            try:
                sides = {side: measured(process, work, seconds, card) for side, process in running[name].items()}
            except SideFailed as error:
                print(f"{name}: {error}", file=sys.stderr, flush=True)
                for process in running[name].values():
                    process.stop()
                continue
            for side in sides.values():
                side["mfu"] = utilisation(work, side["rate"], sides["ours"]["sample_flops"], peak)
            records[name] = {
                "work": work.described(), "unit": work.unit, "units_a_step": work.units_a_step, "samples_a_step": work.batch,
                "mfu_wanted": CASES[name].mfu, "sides": sides,
            }  # fmt: skip
            print(f"{name}: {time.perf_counter() - began:.0f} s, {spoken(name, records[name])}", flush=True)
            write_json(facts | {"gpu": kept | records}, file)
    return records


def kept_records(file: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Of other cases, where they are of the same card, day and versions; others are given up, which is said."""
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # there are none, or they were cut off
        return {}
    if all(before[name] == facts[name] for name in ("device", "date", "machine")):
        return before["gpu"]
    print(f"the records of {before['device']}, {before['date']}, are replaced: {', '.join(before['gpu'])}", flush=True)
    return {}


if __name__ == "__main__":
    sys.exit(until_stopped(main))
