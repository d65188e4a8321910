"""CLIP and SigLIP, whole objectives under DistributedDataParallel on two real gloo processes: the gradient of one process with
the whole batch."""

import socket
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from made_pairs import pair_batch, pair_spec
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from conf import build, read_choice
from objectives.draw import Draw
from objectives.image_text import ImageText

WORLD, BATCH = 2, 10
TINY = {"width": 32, "depth": 1, "heads": 2, "feedforward": 64}
SETTINGS = [("clip", 1), ("siglip", 1), ("clip", 3), ("siglip", 3)]  # (objective, chunks)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def make(objective: str, chunks: int) -> ImageText:
    spec = pair_spec()
    torch.manual_seed(0)
    encoder = build(read_choice("model", "vit_t") | {"depth": 1}, spec=spec)
    node = read_choice("objective", objective) | {
        "text_model": "bert_tiny",
        "text_settings": TINY,
        "patch_dropout": 0.75,
        "grad_cache": {"chunks": chunks},
    }
    node["loss"] |= {"batch_size": BATCH} if objective == "siglip" else {}
    return build(node, encoder=encoder, spec=spec).double()


def step(module: torch.nn.Module, batch: dict[str, Tensor]) -> float:
    outcome = module(batch, Draw(0, batch["epoch"], batch["index"]))
    outcome.loss.backward()
    return outcome.loss.item()


def one_rank(rank: int, port: int, results) -> None:
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD, timeout=timedelta(seconds=120)
    )
    torch.set_num_threads(1)
    whole = pair_batch(BATCH)
    batch = {key: value[rank::WORLD] if value.ndim else value for key, value in whole.items()}  # as the order strides
    for objective, chunks in SETTINGS:
        made = make(objective, chunks)
        loss = step(DistributedDataParallel(made), batch)
        gradients = {name: weight.grad.numpy() for name, weight in made.named_parameters() if weight.grad is not None}
        results.put(((objective, chunks), loss, gradients))
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks_give_the_gradient_of_the_whole_batch():
    context = mp.get_context("spawn")
    results = context.Queue()
    running = mp.spawn(one_rank, (free_port(), results), nprocs=WORLD, join=False)
    gathered = [results.get(timeout=240) for _ in range(WORLD * len(SETTINGS))]
    running.join()
    for objective, chunks in SETTINGS:
        whole = make(objective, chunks)
        loss = step(whole, pair_batch(BATCH))
        expected = {name: weight.grad for name, weight in whole.named_parameters() if weight.grad is not None}
        largest = max(gradient.abs().max().item() for gradient in expected.values())
        assert largest > 1e-3
        ranks = [found[1:] for found in gathered if found[0] == (objective, chunks)]
        assert len(ranks) == WORLD
        for _, gradients in ranks:  # the data-parallel mean, the same on both
            assert gradients.keys() == expected.keys()
            for name, gradient in gradients.items():
                torch.testing.assert_close(torch.from_numpy(gradient), expected[name], rtol=1e-9, atol=1e-9 * largest)
        assert sum(own for own, _ in ranks) / WORLD == pytest.approx(loss, rel=1e-9)
