"""CLIP and SigLIP under DistributedDataParallel on two real gloo processes: the gradient of one process with the whole batch.

Small towers of linear layers, and (long) whole objectives with patch dropout; in one piece and in chunks.
"""

import math
import socket
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from objectives.clip import info_nce
from objectives.draw import Draw
from objectives.grad_cache import in_chunks
from objectives.siglip import sigmoid_loss

WORLD, BATCH = 2, 10
SETTINGS = [("clip", 1), ("siglip", 1), ("clip", 3), ("siglip", 3)]  # (objective, chunks)


class SmallTowers(nn.Module):
    def __init__(self, objective: str, chunks: int):
        super().__init__()
        self.image, self.text = (nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)) for _ in range(2))
        self.scale, self.bias = nn.Parameter(torch.tensor([math.log(5)])), nn.Parameter(torch.tensor([-1.0]))
        self.objective, self.chunks = objective, chunks

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        image, text = (
            nn.functional.normalize(in_chunks(tower, self.chunks, batch[name]), dim=1)
            for name, tower in (("image", self.image), ("text", self.text))
        )
        if self.objective == "clip":
            return info_nce(image, text, self.scale)[0] + 0 * self.bias.sum()
        return sigmoid_loss(image, text, self.scale, self.bias)[0]


def small(objective: str, chunks: int) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    image, text = torch.randn(2, BATCH, 6, dtype=torch.float64)
    return SmallTowers(objective, chunks).double(), {"image": image, "text": text}


class Loss(nn.Module):
    """An objective's loss, as data parallelism wraps it."""

    def __init__(self, objective: nn.Module):
        super().__init__()
        self.objective = objective

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.objective(batch, Draw(0, batch["epoch"], batch["index"])).loss


def whole(objective: str, chunks: int) -> tuple[nn.Module, dict[str, Tensor]]:
    from made_pairs import pair_batch, pair_spec

    from conf import build, read_choice

    spec = pair_spec()
    torch.manual_seed(0)
    node = read_choice("objective", objective) | {
        "text_model": "bert_tiny",
        "text_settings": {"width": 32, "depth": 1, "heads": 2, "feedforward": 64},
        "patch_dropout": 0.75,
        "grad_cache": {"chunks": chunks},
    }
    node["loss"] |= {"batch_size": BATCH} if objective == "siglip" else {}
    encoder = build(read_choice("model", "vit_t") | {"depth": 1}, spec=spec)
    return Loss(build(node, encoder=encoder, spec=spec).double()), pair_batch(BATCH)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}


def one_rank(rank: int, port: int, make, results) -> None:
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD, timeout=timedelta(seconds=120)
    )
    torch.set_num_threads(1)
    for setting in SETTINGS:
        module, batch = make(*setting)
        own = {key: value[rank::WORLD] if value.ndim else value for key, value in batch.items()}  # as the order strides
        parallel = DistributedDataParallel(module)
        loss = parallel(own)
        loss.backward()
        results.put((setting, loss.item(), {name: gradient.numpy() for name, gradient in gradients(module).items()}))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("make", [small, pytest.param(whole, marks=pytest.mark.long)])
def test_two_ranks_give_the_gradient_of_the_whole_batch(make):
    context = mp.get_context("spawn")
    results = context.Queue()
    running = mp.spawn(one_rank, (free_port(), make, results), nprocs=WORLD, join=False)
    gathered = [results.get(timeout=240) for _ in range(WORLD * len(SETTINGS))]
    running.join()
    for setting in SETTINGS:
        module, batch = make(*setting)
        loss = module(batch)
        loss.backward()
        expected = gradients(module)
        largest = max(gradient.abs().max().item() for gradient in expected.values())
        assert largest > 1e-3
        ranks = [found[1:] for found in gathered if found[0] == setting]
        assert len(ranks) == WORLD
        for _, found in ranks:  # the data-parallel mean, the same on both
            assert found.keys() == expected.keys()
            for name, gradient in found.items():
                torch.testing.assert_close(torch.from_numpy(gradient), expected[name], rtol=1e-9, atol=1e-9 * largest)
        assert sum(own for own, _ in ranks) / WORLD == pytest.approx(loss.item(), rel=1e-9)
