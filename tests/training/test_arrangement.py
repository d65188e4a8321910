"""Blocks as `trainer` wants them while training, and as they are written where they are looked at."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import image_batch
from torch import nn

from benchmarks.works import Work, tokenizer
from conf import build, read_choice
from datamodules.vocabulary import Vocabulary
from models.attention import kernels_used, set_attention
from models.fused import as_written, chains_compiled
from models.timm_encoder import TimmEncoder
from objectives.draw import Draw
from objectives.objective import Batch, Objective
from objectives.simclr import SimCLR
from training import arrangement
from training.accumulation import check_accumulation
from training.arrangement import Arrangement, all_blocks, freeze_unused

TEXT = {"batch": 4, "length": 16, "vocabulary": 64}
IMAGE = {"batch": 4, "image_size": 32}
WORKS = {
    "bert": Work("mlm", "bert_mini", **TEXT),
    "modernbert": Work("mlm", "modernbert_mini", **TEXT),
    "gpt2": Work("causal_lm", "gpt_mini", **TEXT),
    "llama": Work("causal_lm", "llama_mini", **TEXT),
    "vit": Work("mae", "vit_t", **IMAGE),
    "resnet": Work("simclr", "resnet18", **IMAGE),
    "pair": Work("clip", "clip_vit_b", **TEXT, image_size=32, words=("model.name=vit_tiny_patch16_224",)),
}


SHALLOW = {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 40)}
SLOW = ("pair", "resnet")  # in bf16 on a CPU that has none


@pytest.fixture(autouse=True)
def nothing_stays_compiled():
    with as_written():
        yield


def ready(name: str) -> tuple[Objective, Batch]:
    objective = WORKS[name].build()
    return objective, WORKS[name].batches(objective).batch(0)


def loss_of(objective: Objective, batch: Batch) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return objective(batch, Draw(0, batch["epoch"], batch["index"])).loss


CHOSEN = {  # backbone -> what its blocks are called, one after another
    "convnext_atto": ["encoder.net.stages"],
    "efficientnet_b0": [f"encoder.net.blocks.{stage}" for stage in range(7)],
    "resnet18": [f"encoder.net.layer{stage}.{i}" for stage in range(1, 5) for i in range(2)],
    "twins_svt_small": [f"encoder.net.blocks.{stage}.{i}" for stage, depth in enumerate((2, 2, 10, 4)) for i in range(depth)],
    "vit_tiny_patch16_224": [f"encoder.net.blocks.{i}" for i in range(12)],
}


def names_of(blocks: list[nn.Module], objective: Objective) -> list[str]:
    names = {module: name for name, module in objective.named_modules()}
    return [names[block] for block in blocks]


@pytest.mark.parametrize("backbone", CHOSEN)
def test_blocks_are_the_encoders_own_and_neither_stems_nor_projectors(spec, backbone):
    simclr = SimCLR(TimmEncoder(spec, backbone), spec, projector_width=32)
    assert names_of(all_blocks(simclr), simclr) == CHOSEN[backbone]


@pytest.mark.parametrize(("name", "model", "also"), [("mae", "vit_t", "decoder"), ("dino", "vit_t", "teacher")])
def test_blocks_of_decoders_and_teachers_count_too(name, model, also):
    objective = Work(name, model, **IMAGE).build()
    own, found = names_of(objective.encoder.blocks, objective), names_of(all_blocks(objective), objective)
    others = [name for name in found if name not in own]
    assert len(found) == len(own) + len(others) > len(own)
    assert all(name.startswith(also) for name in others)


def test_both_halves_of_a_t5_count():
    work = Work("span_corruption", "t5_mini", **TEXT)
    vars(work)["spec"] = replace(work.spec, vocabulary=Vocabulary(tokenizer(64), num_sentinels=16))
    objective = work.build()
    depth = len(objective.encoder.blocks)
    halves = [f"{half}.block.{i}" for half in ("encoder.net.encoder", "decoder") for i in range(depth)]
    assert names_of(all_blocks(objective), objective) == halves


def test_what_looks_like_a_block_inside_a_block_is_none_of_its_own(spec):
    simclr = SimCLR(TimmEncoder(spec, "convnext_atto", settings={"depths": (1, 1, 1, 1)}), spec, projector_width=32)
    calls = []
    for part in (simclr.encoder.net.stages[1].blocks[0].conv_dw, simclr.projector):
        part.register_forward_hook(lambda module, *_: calls.append(module))
    Arrangement(activation_checkpointing=True).apply(simclr, None)
    batch = image_batch(4)
    simclr(batch, Draw(0, batch["epoch"], batch["index"])).loss.backward()
    first, projector = simclr.encoder.net.stages[1].blocks[0].conv_dw, simclr.projector
    assert (calls.count(first), calls.count(projector)) == (2, 1)  # the forward pass, and once more for the backward one


def test_what_is_looked_at_is_not_compiled(monkeypatch):
    called = []

    def compiled(forward, **_):
        return lambda *given, **settings: called.append(1) or forward(*given, **settings)

    monkeypatch.setattr(arrangement.torch, "compile", compiled)
    objective, batch = ready("gpt2")
    arranged = Arrangement(compile=True)
    arranged.apply(objective, None)
    loss_of(objective, batch)
    parts = len(all_blocks(objective)) + 1  # the norm behind the last block
    assert len(called) == parts > 1
    assert chains_compiled()
    with arranged.whole(objective) as whole:
        assert not chains_compiled()
        loss_of(whole, batch)
    assert len(called) == parts
    assert chains_compiled()
    loss_of(objective, batch)
    assert len(called) == 2 * parts


@pytest.mark.long
def test_blocks_of_many_shapes_are_all_compiled(monkeypatch):
    """Teachers and students, kinds of blocks and sizes of crops share one function, of which PyTorch keeps eight versions."""
    graphs = []
    counting = partial(torch.compile, backend=lambda graph, _: graphs.append(1) or graph.forward)
    monkeypatch.setattr(arrangement.torch, "compile", counting)
    objective, _ = ready("gpt2")
    Arrangement(compile=True, half_stream=True, precision="bf16").apply(objective, None)
    block, shapes = all_blocks(objective)[0], range(1, 13)
    with torch.autocast("cpu", torch.bfloat16):
        for length in shapes:
            block(torch.zeros(1, length, 256))
    assert len(graphs) >= len(shapes)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) if name in SLOW else name for name in WORKS])
def test_a_half_stream_passes_between_blocks_and_changes_rounding_alone(name):
    objective, batch = ready(name)
    expected = loss_of(objective, batch)
    expected.backward()
    gradient = torch.cat([w.grad.flatten() for w in objective.parameters() if w.grad is not None])
    arranged = Arrangement(half_stream=True, precision="bf16")
    arranged.apply(objective, None)
    seen = []
    for block in all_blocks(objective):
        block.register_forward_hook(lambda _, given, made: seen.append(made[0] if isinstance(made, tuple) else made))
    objective.zero_grad()
    loss = loss_of(objective, batch)
    loss.backward()
    halved = torch.cat([w.grad.flatten() for w in objective.parameters() if w.grad is not None])
    assert {tensor.dtype for tensor in seen} == {torch.bfloat16}
    assert loss.item() == pytest.approx(expected.item(), rel=1e-2)
    assert (halved - gradient).norm() < 0.1 * gradient.norm()


def test_chains_on_pixels_are_compiled_with_the_blocks_alone():
    for compiles in (True, False):
        objective, _ = ready("vit")
        Arrangement(compile=compiles).apply(objective, None)
        assert chains_compiled() is compiles


@pytest.mark.parametrize("momentum", [0.1, None])
def test_activations_computed_again_leave_no_trace_in_batch_norms(spec, momentum):
    made = []
    for again in (False, True):
        torch.manual_seed(0)
        simclr = SimCLR(TimmEncoder(spec, "resnet18", settings=SHALLOW), spec, projector_width=32)
        for norm in [part for part in simclr.modules() if isinstance(part, torch.nn.BatchNorm2d)]:
            norm.momentum = momentum
        Arrangement(activation_checkpointing=again).apply(simclr, None)
        batch = image_batch(8)
        for _ in range(2):
            simclr(batch, Draw(0, batch["epoch"], batch["index"])).loss.backward()
        gradients = {name: weight.grad for name, weight in simclr.named_parameters() if weight.requires_grad}
        made.append((dict(simclr.named_buffers()), gradients))
    for without, with_again in zip(*made, strict=True):
        assert all(torch.equal(tensor, with_again[name]) for name, tensor in without.items())


def test_in_full_precision_the_stream_is_full_too():
    objective, _ = ready("bert")
    Arrangement(half_stream=True, precision="fp32").apply(objective, None)
    assert not any("forward" in vars(block) for block in all_blocks(objective))


def test_an_optimiser_has_the_same_groups_whether_or_not_weights_are_frozen_that_the_loss_does_not_reach():
    work = Work("mlm", "bert_tiny", **TEXT, words=("model.architecture=roberta",))  # with a pooler
    alone = work.build()
    ranked, batch = copy.deepcopy(alone), work.batches(alone).batch(0)
    freeze_unused(ranked, batch)
    assert ranked.unreached == {f"encoder.net.pooler.dense.{name}" for name in ("weight", "bias")}
    assert not any(ranked.get_parameter(name).requires_grad for name in ranked.unreached)
    states = []
    for objective in (alone, ranked):
        names = {weight: name for name, weight in objective.named_parameters()}
        optimizer = build(read_choice("optimizer", "adamw")).optimizer(objective, 64)
        objective(batch, Draw(0, batch["epoch"], batch["index"])).loss.backward()
        optimizer.step()
        states.append((optimizer, [[names[weight] for weight in group["params"]] for group in optimizer.param_groups]))
    (optimizer, groups), (other, same) = states
    assert groups == same
    assert optimizer.state_dict()["state"].keys() == other.state_dict()["state"].keys()
    other.load_state_dict(optimizer.state_dict())
    assert all(torch.equal(weight, ranked.get_parameter(name)) for name, weight in alone.named_parameters())


def test_trials_on_the_host_do_without_the_kernels_of_a_gpu():
    """FlexAttention, for one, has no backward pass on a CPU."""
    objective, batch = ready("bert")
    set_attention(objective, "flex")
    freeze_unused(objective, batch)
    check_accumulation(objective, batch, 2)
    assert kernels_used(objective) == {"flex"}
    assert all(weight.requires_grad for weight in objective.parameters())
