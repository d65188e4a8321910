"""Objectives on pictures on two real gloo processes: the gradient, the centre and the queue of one process with it all."""

import pytest
import torch
import torch.distributed as dist
from made_vision import OBJECTIVES, batch_of, encoder_of, made_data
from torch import Tensor

from models.encoder import Features
from objectives.codebook import Codebook
from objectives.draw import Draw
from objectives.moco_v2 import Queue
from objectives.moco_v3 import contrast
from objectives.triplet import hardest_triplets
from objectives.vicreg import vicreg_terms

WORLD = 2
LOSSES = {
    "moco_v3": lambda first, second: contrast(first, second, 0.2)[0],
    "vicreg": lambda first, second: sum(vicreg_terms(0.3 * first, 0.3 * second).values()),
    "triplet": lambda first, second: hardest_triplets(first, second, 1.0)[0],
}


def gradient(name: str, inputs: Tensor, weight: Tensor) -> tuple[float, Tensor]:
    weight = weight.clone().requires_grad_()
    loss = LOSSES[name](inputs[0] @ weight, inputs[1] @ weight)
    loss.backward()
    return loss.item(), weight.grad


def centre_of(share: slice) -> Tensor:
    """DINO's centre after one step with these of eight pictures."""
    data = made_data()
    dino = OBJECTIVES["dino"](encoder_of("vit", data.spec), data.spec, num_local=0)
    batch = {name: value[share] for name, value in batch_of(dino, data).items() if value.ndim}
    dino(batch, Draw(0, batch["epoch"], batch["index"]))
    dino.after_step(0.1)
    return dino.centre_K


def pictures_of(keys: Tensor) -> Tensor:
    """A number that tells keys apart, so that it can be seen whether it stays beside its own."""
    return keys[:, 0].mul(1e6).long()


def queue_of(keys: Tensor) -> Queue:
    torch.manual_seed(0)
    queue = Queue(12, 4)
    for part in keys.chunk(4):
        queue.hold(part, pictures_of(part))
        queue.push()
    return queue


def codebook_of(share: slice) -> Codebook:
    """After three steps with these of eight pictures of 9 tokens."""
    torch.manual_seed(0)
    codebook, pictures = Codebook(encoder_of("tiny", made_data().spec), 4, 3, num_codes=24, width=6), torch.randn(3, 8, 9, 32)
    index = torch.arange(8)[share]
    for epoch, tokens in enumerate(pictures):
        features = Features(tokens[share], tokens[share].mean(dim=1), tokens[share, :0])
        codebook(features, Draw(0, torch.full_like(index, epoch), index))
        codebook.after_step()
    return codebook


def one_rank(inputs: Tensor, weight: Tensor, keys: Tensor) -> dict[str, object]:
    own = slice(dist.get_rank(), None, WORLD)  # as the order strides
    found: dict[str, object] = {}
    for name in LOSSES:
        loss, mine = gradient(name, inputs[:, own], weight)
        dist.all_reduce(mine)  # the data-parallel mean
        found[name] = (loss, mine / WORLD)
    queue = queue_of(keys[own])
    found["codebook"] = codebook_of(own).codes_KZ
    return found | {"centre": centre_of(own), "queue": (queue.keys_KE, queue.next, queue.picture_K)}


def test_two_ranks_are_one_process(two_ranks):
    torch.manual_seed(0)
    inputs, weight = torch.randn(2, 8, 5, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    keys = torch.nn.functional.normalize(torch.randn(16, 4), dim=1)
    answers = two_ranks(one_rank, inputs, weight, keys)
    for name in LOSSES:
        loss, whole = gradient(name, inputs, weight)
        for answer in answers:
            torch.testing.assert_close(answer[name][1], whole, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: name + text)
        assert sum(answer[name][0] for answer in answers) / WORLD == pytest.approx(loss, rel=1e-9), name

    for answer in answers:
        torch.testing.assert_close(answer["codebook"], codebook_of(slice(None)).codes_KZ, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(answer["centre"], centre_of(slice(None)), rtol=1e-4, atol=1e-6)

    queue, rings = queue_of(keys), [answer["queue"][0] for answer in answers]
    assert torch.equal(*rings)
    assert [answer["queue"][1].tolist() for answer in answers] == [[4], [4]]
    assert queue.next.tolist() == [4]
    assert all(torch.equal(answer["queue"][2], pictures_of(rings[0])) for answer in answers)
    for block in range(3):  # the same keys; within a batch they lie rank by rank
        theirs, ours = (sorted(ring[4 * block : 4 * block + 4].tolist()) for ring in (rings[0], queue.keys_KE))
        assert theirs == ours
