"""What more devices would do: a model of the step time, fitted to what is measured here, and what it says of larger machines.

Measured: steps of one process at several batch sizes (compute = fixed + per_sample * samples), sums over two processes by
size (link = latency + bytes / bandwidth), and steps of two processes, which the model has not seen: its error on them is
printed. Then the same model with the figures of a GPU cluster, which are assumptions, printed beside the results.

    python benchmarks/scaling.py            # about two minutes on two cores
"""

import argparse
import math
import multiprocessing
import multiprocessing.connection
import os
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gate import until_stopped
from datamodules.spec import DataSpec
from models.timm_encoder import TimmEncoder
from objectives.mae import MaskedAutoencoder
from objectives.objective import Objective
from objectives.simclr import SimCLR
from training.arrangement import Arrangement
from training.course import Steps
from training.optimization import Optimization
from training.pretraining import Pretraining
from training.ranks import Ranks
from training.trainer import build_trainer, prepare_speed

STEPS, WARM = 6, 2
BATCHES = (16, 32, 64)
SETTINGS = {
    "accelerator": "cpu", "devices": 2, "num_nodes": 1, "strategy": "ddp", "precision": "fp32", "attention": "auto",
    "accumulate": 1, "activation_checkpointing": False, "compile": False, "half_stream": False, "sharded_checkpoints": False,
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """What the model must know of a machine; the first is fitted, the others are assumed.

    Attributes:
        latency: seconds of one message.
        bandwidth: bytes/s that a rank sends in a ring.
        speed: how many times faster than the measured core it computes; a fixed cost of a step stays the same.
        hidden: share of the backward pass behind which gradients travel.
    """

    latency: float
    bandwidth: float
    speed: float = 1.0
    hidden: float = 0.0


@dataclass(frozen=True)
class Work:
    """One objective on one rank: compute = fixed + per_sample * samples; what travels beside gradients.

    Attributes:
        weights: how many are trained.
        gathered: bytes a sample that every rank must get from every other, with as many back for their gradient.
        synchronised: bytes a step of batch-norm statistics, and in how many messages.
    """

    fixed: float
    per_sample: float
    weights: int
    gathered: int
    synchronised: tuple[int, int] = (0, 0)


def ring(size: int, ranks: int, machine: Machine, passes: int = 2) -> float:
    """Seconds in which bytes are summed over ranks (two passes of a ring) or gathered (one); few bytes take a tree."""
    if ranks == 1:
        return 0.0
    hops = min(ranks - 1, 2 * math.ceil(math.log2(ranks)))
    return passes * (hops * machine.latency + (ranks - 1) * size / ranks / machine.bandwidth)


def step_seconds(work: Work, batch: int, ranks: int, machine: Machine) -> float:
    """A DDP step: compute, what of the gradients' sum it does not hide, and what the loss needs from the others."""
    compute = work.fixed + work.per_sample * batch / machine.speed
    gradients = ring(4 * work.weights, ranks, machine)
    exposed = max(0.0, gradients - machine.hidden * 2 / 3 * compute)
    loss = 2 * ring(work.gathered * batch * ranks, ranks, machine, passes=1)
    size, messages = work.synchronised
    statistics_ = messages * ring(size // max(1, messages), ranks, machine)
    return compute + exposed + loss + statistics_


def made(name: str) -> Objective:
    torch.manual_seed(0)
    spec = DataSpec("noise", "image", 10_000, 32, 3)
    encoder = TimmEncoder(spec, "vit_tiny_patch16_224", depth=6, positions="sincos")
    objective = MaskedAutoencoder(encoder, spec) if name == "mae" else SimCLR(encoder, spec)
    prepare_speed(objective, SETTINGS)
    return objective


def seconds_a_step(name: str, batch: int, ranks: Ranks, strategy: str) -> float:
    """Median of some steps of train.py's Trainer on a local batch that is in memory."""
    torch.set_num_threads(1)
    index = torch.arange(batch) * ranks.size + ranks.rank
    views = torch.randint(0, 256, (batch, 2, 3, 32, 32), dtype=torch.uint8)
    one = {"views": views, "index": index, "epoch": torch.zeros_like(index), "corrupt": torch.tensor(0)}
    times: list[float] = []

    class Timed(Pretraining):
        def on_train_batch_end(self, *_: object) -> None:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        recipe, steps = Optimization(torch.optim.AdamW, 1e-3), STEPS + WARM
        module = Timed(made(name), recipe, Steps(steps + 1), batch * ranks.size, 0, arrangement=Arrangement())
        trainer = build_trainer(SETTINGS | {"strategy": strategy}, Path(folder), Steps(steps), None, [], ranks)
        trainer.fit(module, torch.utils.data.DataLoader([one] * steps, batch_size=None))
    return statistics.median(np.diff(times[WARM - 1 :]))


def link_seconds(size: int) -> float:
    """Median time of a sum of so many bytes over the two processes."""
    values, times = torch.ones(size // 4), []
    for _ in range(7):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(values)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def on_two_processes(port: int, rank: int, line: multiprocessing.connection.Connection) -> None:
    """Measure the link, then steps; rank 0 reports."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    sizes = [4 * 2**exponent for exponent in range(8, 23, 2)]
    found = {"link": [(size, link_seconds(size)) for size in sizes]}
    for name in ("mae", "simclr"):
        for strategy in ("ddp", "fsdp"):
            found[name, strategy] = seconds_a_step(name, 32, Ranks(rank, 2, 2), strategy)
    line.send(found)
    dist.barrier()


def measured_on_two() -> dict:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    processes = [context.Process(target=on_two_processes, args=(port, rank, pipes[rank][1])) for rank in range(2)]
    for process, (_, theirs) in zip(processes, pipes, strict=True):
        process.start()
        theirs.close()
    try:
        return pipes[0][0].recv()
    except EOFError:
        raise SystemExit("one of the two processes ended before it had measured; it says above why") from None
    finally:
        for process in processes:
            process.join(20)
            process.kill()


def line_through(points: list[tuple[float, float]]) -> tuple[float, float]:
    """(at zero, slope), by least relative squares."""
    x, y = np.array(points, float).T
    columns = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
    zero, slope = np.linalg.lstsq(columns, np.ones_like(y), rcond=None)[0]
    return max(0.0, float(zero)), float(slope)


def table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print(flush=True)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    works: dict[str, Work] = {}
    for name in ("mae", "simclr"):
        points = [(float(batch), seconds_a_step(name, batch, Ranks(), "auto")) for batch in BATCHES]
        fixed, per_sample = line_through(points)
        objective = made(name)
        weights = sum(weight.numel() for weight in objective.parameters() if weight.requires_grad)
        statistics_ = (4 * 2 * (2048 + 128) * 2, 2 * 2 * 2) if name == "simclr" else (0, 0)
        works[name] = Work(fixed, per_sample, weights, 2 * 128 * 4 if name == "simclr" else 0, statistics_)
        print(
            f"{name}: {weights:,} weights; one core, a step = {1e3 * fixed:.1f} ms + {1e3 * per_sample:.2f} ms a sample; ",
            end="",
        )
        print("measured " + ", ".join(f"{int(batch)}: {1e3 * seconds:.0f} ms" for batch, seconds in points), flush=True)

    found = measured_on_two()
    latency, per_byte = line_through([(size, seconds / 2) for size, seconds in found["link"]])  # two passes, one neighbour
    here = Machine(latency, 0.5 / per_byte)
    print(f"link of two processes: {1e6 * latency:.0f} us a message, {here.bandwidth / 1e9:.2f} GB/s\n")
    rows = [["two processes, 32 samples each", "model ms", "ddp ms", "error", "fsdp ms"]]
    for name, work in works.items():
        modelled, ddp, fsdp = step_seconds(work, 32, 2, here), found[name, "ddp"], found[name, "fsdp"]
        rows.append([name, f"{1e3 * modelled:.0f}", f"{1e3 * ddp:.0f}", f"{modelled / ddp - 1:+.0%}", f"{1e3 * fsdp:.0f}"])
    table(rows)
    predict()


def predict() -> None:
    """Efficiency of whole recipes on GPUs. Assumed: 400 TFLOP/s at 40 %, 300 GB/s within 8 GPUs, 40 GB/s a GPU beyond."""
    flops = 0.4 * 400e12
    recipes = {  # forward and backward FLOPs a sample, weights, samples a GPU, gathered bytes a sample, batch-norm bytes
        "MAE, ViT-L, 224 px": (0.47e12, 330e6, 64, 0, (0, 0)),
        "SimCLR, ResNet-50": (4.9e10, 28e6, 64, 1024, (4 * 2 * 27_000 * 2, 2 * 2 * 55)),
        "MLM, BERT-base, 512 tokens": (2.8e11, 110e6, 64, 0, (0, 0)),
        "RTD, ELECTRA-base": (3.4e11, 124e6, 64, 0, (0, 0)),
        "CLIP, ViT-B/32 and text": (4.4e10, 151e6, 256, 4096, (0, 0)),
        "Llama-like causal LM, 1.3 B, 2,048 tokens": (1.6e13, 1.3e9, 4, 0, (0, 0)),
    }
    rows = [["", "8 GPUs", "64 GPUs", "1,024 GPUs", "gradients", "gathered at 1,024"]]
    for name, (cost, weights, batch, gathered, norms) in recipes.items():
        work = Work(0.002, cost / flops, int(weights), gathered, norms)
        cells = [name]
        for ranks in (8, 64, 1024):
            link = 300e9 if ranks <= 8 else 40e9
            machine = Machine(5e-6 if ranks <= 8 else 10e-6, link, hidden=0.8)
            alone = step_seconds(work, batch, 1, machine)
            cells.append(f"{alone / step_seconds(work, batch, ranks, machine):.0%}")
        rows.append([*cells, f"{8 * weights / 1e6:,.0f} MB", f"{2 * gathered * batch * 1024 / 1e6:,.0f} MB"])
    table(rows)


if __name__ == "__main__":
    sys.exit(until_stopped(main))
