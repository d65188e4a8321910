"""Two towers: gradients in chunks, patch dropout, locks, the clamp, where a text ends, and what is refused."""

import math

import pytest
import torch
from conftest import text_encoder
from made_pairs import TinyPairs, pair_batch, pair_spec, vocabulary
from torch import nn

from conf import build, read_choice
from datamodules.spec import DataSpec
from errors import BadInput
from models.pair import end_places
from models.timm_encoder import TimmEncoder
from objectives.clip import InfoNCE, info_nce
from objectives.draw import Draw
from objectives.image_text import ImageText
from objectives.siglip import SigmoidLoss, sigmoid_loss
from training.flops import sample_flops
from training.optimization import Optimization, parameter_groups


def make(loss=None, architecture="bert", name="vit_tiny_patch16_224", depth=1, dropout=0.0, **settings) -> ImageText:
    """Small towers with jittered vectors; the image tower is 192 wide, the text tower 32."""
    spec = pair_spec()
    torch.manual_seed(0)
    shape = {"depth": depth, "positions": "sincos"} if name.startswith("vit") else {}
    encoder = TimmEncoder(spec, name, **shape)

    def text_model(spec: DataSpec, **given):
        return text_encoder(architecture, spec, dropout=dropout, **given)

    torch.manual_seed(1)
    return ImageText(encoder, spec, loss or InfoNCE(), text_model, **settings)


def draw_of(batch) -> Draw:
    return Draw(0, batch["epoch"], batch["index"])


def gradients(objective: ImageText, batch) -> dict[str, torch.Tensor]:
    objective.zero_grad()
    objective(batch, draw_of(batch)).loss.backward()
    return {name: weight.grad.clone() for name, weight in objective.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize(("loss", "expected"), [(InfoNCE(), info_nce), (SigmoidLoss(7), sigmoid_loss)])
def test_the_loss_is_of_unit_vectors_and_reaches_every_weight(loss, expected):
    objective, batch = make(loss), pair_batch(7)
    image, text = objective.embed(batch, draw_of(batch))
    for vectors in (image, text):
        assert vectors.shape == (7, 32)  # of the narrower tower
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(7))
    numbers = [number for number in (objective.head.logit_scale, objective.head.logit_bias) if number is not None]
    outcome = objective(batch, draw_of(batch))
    torch.testing.assert_close(outcome.loss, expected(image, text, *numbers)[0])
    assert outcome.report["temperature"].item() == pytest.approx(loss.temperature)
    assert all(not value.requires_grad and value.ndim == 0 for value in outcome.report.values())
    found = gradients(objective, batch)
    missing = {name for name, weight in objective.named_parameters() if weight.requires_grad} - set(found)
    assert missing == set()
    assert all(weight.ndim for weight in objective.parameters())  # FSDP2 shards no scalars


@pytest.mark.parametrize("loss", [InfoNCE(), SigmoidLoss(7)], ids=["clip", "siglip"])
@pytest.mark.parametrize("chunks", [3, 50])
def test_chunks_give_the_gradient_of_the_whole_batch(loss, chunks):
    batch = pair_batch(7)
    plain, cached = (make(loss, patch_dropout=0.5, grad_cache={"chunks": n}) for n in (1, chunks))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        expected, found = (gradients(objective.to(dtype), batch) for objective in (plain, cached))
        assert expected.keys() == found.keys()
        largest = max(gradient.abs().max().item() for gradient in expected.values())
        for name, gradient in expected.items():  # that of the keys' bias is zero but for rounding
            torch.testing.assert_close(found[name], gradient, rtol=tolerance, atol=tolerance * largest)


def test_chunks_repeat_the_dropout_of_the_first_pass():
    batch = pair_batch(6)
    objective = make(dropout=0.3, grad_cache={"chunks": 3}).double()
    torch.manual_seed(5)
    found = gradients(objective, batch)
    torch.manual_seed(5)
    parts = [{key: value[i : i + 2] for key, value in batch.items() if value.ndim} for i in (0, 2, 4)]
    images = torch.cat([objective.head.images(objective.encoder, part["views"][:, 0]) for part in parts])
    texts = torch.cat([objective.head.texts(objective.text_encoder, part["ids"], part["present"]) for part in parts])
    objective.zero_grad()
    info_nce(images, texts, objective.head.logit_scale)[0].backward()
    for name, weight in objective.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(found[name], weight.grad, rtol=1e-10, atol=1e-12)


def test_chunks_bound_what_is_kept_for_the_backward_pass():
    batch = pair_batch(32)

    def kept(objective: ImageText) -> int:
        seen: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        weights = {weight.untyped_storage().data_ptr() for weight in objective.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            objective(batch, draw_of(batch))
        return sum(size for place, size in seen.items() if place not in weights)

    assert kept(make(grad_cache={"chunks": 8})) < 0.02 * kept(make())


def test_patch_dropout_is_drawn_for_each_sample_and_only_while_training():
    objective, batch = make(patch_dropout=0.75), pair_batch(4)
    seen = []
    objective.encoder.register_forward_hook(lambda module, given, made: seen.append(made.tokens.shape[1]))
    first, second = (objective.embed(batch, draw_of(batch))[0] for _ in range(2))
    torch.testing.assert_close(first, second)
    alone = {key: value[2:] if value.ndim else value for key, value in batch.items()}
    torch.testing.assert_close(objective.embed(alone, draw_of(alone))[0], first[2:])
    other = batch | {"epoch": batch["epoch"] + 1}
    assert not torch.allclose(objective.embed(other, draw_of(other))[0], first)
    objective.eval()
    objective.embed(batch, draw_of(batch))
    assert seen == [16, 16, 16, 16, 64]


@pytest.mark.parametrize(("lock", "name"), [("lock_image", "encoder"), ("lock_text", "text_encoder")])
@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "resnet18"])
def test_a_locked_tower_stays_bit_for_bit_as_it_was(lock, name, model):
    objective, batch = make(name=model, dropout=0.2, **{lock: True}), pair_batch(6)
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    optimizer = Optimization(torch.optim.AdamW, base_lr=0.1, weight_decay=0.5).optimizer(objective, 6)
    for _ in range(3):
        objective.train()
        optimizer.zero_grad()
        objective(batch, draw_of(batch)).loss.backward()
        optimizer.step()
    assert not getattr(objective, name).training
    after = objective.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert not {key for key in changed if key.startswith(f"{name}.")}
    other = "text_encoder." if name == "encoder" else "encoder."
    assert {key for key in changed if key.startswith(other)}
    assert {"head.image.weight", "head.text.weight", "head.logit_scale"} <= changed


def test_the_scale_is_clamped_after_a_step_without_gradient():
    objective = make()
    for value, expected in ((7.0, math.log(100)), (-3.0, 0.0), (2.0, 2.0)):
        objective.head.logit_scale.data.fill_(value)
        objective.after_step(0.5)
        assert objective.head.logit_scale.item() == pytest.approx(expected)
    assert objective.head.logit_scale.shape == (1,)
    assert objective.head.logit_scale.requires_grad
    assert objective.head.logit_scale.grad is None
    assert make().head.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_siglip_begins_at_its_own_numbers_and_is_not_clamped():
    objective = make(SigmoidLoss(64))
    assert objective.head.logit_scale.item() == pytest.approx(math.log(10))
    assert objective.head.logit_bias.item() == pytest.approx(math.log((1 / 64) / (1 - 1 / 64)))
    objective.head.logit_scale.data.fill_(7.0)
    objective.after_step(1.0)
    assert objective.head.logit_scale.item() == 7.0
    assert make(SigmoidLoss(64, bias=-10.0)).head.logit_bias.item() == -10.0


def test_scale_and_bias_never_decay_and_both_towers_have_layers():
    objective = make(SigmoidLoss(8), depth=2)
    groups = parameter_groups(objective, 0.2, layer_decay=0.5)
    grouped = [id(weight) for group in groups for weight in group["params"]]
    assert sorted(grouped) == sorted(id(weight) for weight in objective.parameters() if weight.requires_grad)
    group_of = {id(weight): group for group in groups for weight in group["params"]}
    for number in (objective.head.logit_scale, objective.head.logit_bias):
        assert group_of[id(number)]["weight_decay"] == 0
    assert group_of[id(objective.head.text.weight)]["lr_scale"] == 1
    for encoder, first in (
        (objective.encoder, objective.encoder.net.patch_embed.proj.weight),
        (objective.text_encoder, objective.text_encoder.embedding_VD),
    ):
        assert group_of[id(first)]["lr_scale"] == 0.5**3
        for i, block in enumerate(encoder.blocks):
            assert {group_of[id(weight)]["lr_scale"] for weight in block.parameters()} == {0.5 ** (2 - i)}


def test_a_text_ends_at_its_first_end_token_whatever_its_id():
    present = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    start, end, pad = 3, 0, 1  # the end has the smallest id
    ids = torch.tensor([[3, 9, 8, 0, 1], [3, 9, 0, 1, 1], [3, 0, 1, 1, 1], [3, 9, 0, 7, 0]])
    assert end_places(ids, present, end, has_start=True).tolist() == [3, 2, 1, 2]
    one = ids.clone()  # GPT-2's token is start, end and padding
    one[ids == start] = one[ids == pad] = end
    assert end_places(one, present, end, has_start=True).tolist() == [3, 2, 1, 2]
    assert end_places(ids[:, 1:], present[:, 1:], end, has_start=False).tolist() == [2, 1, 0, 1]
    without = torch.tensor([[3, 9, 8, 7, 1]])  # a row that somebody cut
    assert end_places(without, present[:1], end, has_start=True).tolist() == [3]


@pytest.mark.parametrize(("architecture", "pool"), [("gpt2", None), ("bert", "end"), ("bert", None), ("bert", "first")])
def test_what_a_text_is_pooled_at(architecture, pool):
    objective, batch = make(architecture=architecture, text_pool=pool), pair_batch(5)
    hidden = objective.text_encoder(objective.text_encoder.inputs(batch)).tokens
    length = batch["present"].sum(1)
    expected = {
        "end": torch.stack([row[n - 1] for row, n in zip(hidden, length, strict=True)]),
        "mean": torch.stack([row[:n].mean(0) for row, n in zip(hidden, length, strict=True)]),
        "first": hidden[:, 0],
    }[pool or ("end" if architecture == "gpt2" else "mean")]
    expected = nn.functional.normalize(objective.head.text(expected), dim=1)
    torch.testing.assert_close(objective.pair.texts(batch), expected)
    longer = {  # more padding changes nothing
        "ids": nn.functional.pad(batch["ids"], (0, 4), value=0),
        "present": nn.functional.pad(batch["present"], (0, 4), value=False),
    }
    torch.testing.assert_close(objective.pair.texts(longer), expected, rtol=1e-4, atol=1e-6)


def test_flops_are_those_of_both_towers_and_of_the_second_pass():
    batch = pair_batch(8)
    plain, cached, dropped = (
        sample_flops(make(**settings), batch, 8) for settings in ({}, {"grad_cache": {"chunks": 4}}, {"patch_dropout": 0.5})
    )
    image, text = (sum(w.numel() for block in tower.blocks for w in block.parameters()) for tower in
                   (make().encoder, make().text_encoder))  # fmt: skip
    assert plain > 6 * (64 * image + 12 * text) * 0.9  # two a weight and token forward, four backward
    assert plain * 1.2 < cached < plain * 1.4
    assert dropped < 0.7 * plain
    assert sample_flops(make(), pair_batch(3), 3) > 0  # a single pair would have no other to be compared with


@pytest.mark.parametrize("loss", [InfoNCE(), SigmoidLoss(2)], ids=["clip", "siglip"])
def test_a_batch_of_one_is_refused(loss):
    batch = pair_batch(1)
    with pytest.raises(BadInput, match="batch_size must be at least 2"):
        make(loss)(batch, draw_of(batch))
    with pytest.raises(BadInput, match="batch_size must be at least 2"):
        SigmoidLoss(1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"grad_cache": {"chunks": 0}}, "chunks must be 1 or more"),
        ({"grad_cache": {"chunks": 2}, "name": "resnet18"}, "batch norm would see chunks"),
        ({"patch_dropout": 0.5, "name": "resnet18"}, "patch_dropout needs a model that can drop patches"),
        ({"patch_dropout": 1.0}, "keeps 0 of 64 patches"),
        ({"text_pool": "max"}, "no text_pool 'max'; .*end, first, mean"),
        ({"text_pool": "first", "architecture": "gpt2"}, "has seen no other"),
        ({"embedding_width": -4}, "embedding_width must be positive"),
    ],
)
def test_what_towers_cannot_do_is_said(settings, expected):
    with pytest.raises(BadInput, match=expected):
        make(**settings)


@pytest.mark.parametrize(("temperature", "lowest"), [(0.0, 0.01), (0.005, 0.01), (2.0, 0.01), (0.07, 0.0)])
def test_temperatures_out_of_range(temperature, lowest):
    with pytest.raises(BadInput, match="lowest_temperature"):
        InfoNCE(temperature, lowest)


def test_a_locked_resnet_can_be_cut_in_chunks():
    batch = pair_batch(4)
    objective = make(name="resnet18", lock_image=True, grad_cache={"chunks": 2})
    torch.testing.assert_close(objective.embed(batch, draw_of(batch))[0], objective.pair.images(batch["views"][:, 0]))


@pytest.mark.parametrize("objective", ["clip", "siglip"])
@pytest.mark.parametrize("text_model", ["bert_tiny", "gpt_mini", "t5_mini", "modernbert_base", "bilstm", "word_vectors"])
def test_any_text_model_is_a_tower_by_its_name(objective, text_model):
    spec = pair_spec()
    node = read_choice("objective", objective) | {"text_model": text_model}
    known = read_choice("model", text_model)
    node["text_settings"] |= {
        name: size for name, size in {"width": 64, "depth": 1, "heads": 2, "feedforward": 64}.items() if name in known
    }
    node["loss"] |= {"batch_size": 4} if objective == "siglip" else {}
    encoder = build(read_choice("model", "vit_t") | {"depth": 1}, spec=spec)
    made, batch = build(node, encoder=encoder, spec=spec), pair_batch(4)
    made(batch, draw_of(batch)).loss.backward()
    unused = [name for name, weight in made.named_parameters() if weight.requires_grad and weight.grad is None]
    assert unused == []  # data parallelism waits for the gradient of every weight
    assert made.text_encoder.width == 64
    assert made.head.text_pool == ("end" if text_model == "gpt_mini" else "mean")


@pytest.mark.parametrize("pool", ["end", "first"])
def test_one_of_a_text_s_word_vectors_cannot_stand_for_the_others(pool):
    node = read_choice("objective", "clip") | {"text_model": "word_vectors", "text_pool": pool}
    encoder = build(read_choice("model", "vit_t") | {"depth": 1}, spec=pair_spec())
    with pytest.raises(BadInput, match=f"text_pool={pool}: a token of word vectors has seen no other; choices: mean"):
        build(node, encoder=encoder, spec=pair_spec())


@pytest.mark.parametrize(
    ("text_model", "expected"),
    [
        ("bert_mni", "no model 'bert_mni' for text_model; did you mean bert_mini"),
        ("vit_t", "text_model=vit_t is for image; choices that fit: bert_base, .*gpt_mini"),
    ],
)
def test_a_text_model_that_is_none(text_model, expected):
    with pytest.raises(BadInput, match=expected):
        build(read_choice("objective", "clip") | {"text_model": text_model}, encoder=None, spec=pair_spec())


def test_the_papers_pair():
    node = read_choice("model", "clip_vit_b")
    encoder = build(node | {"depth": 1}, spec=pair_spec(image_size=224))
    assert (encoder.width, encoder.patch_size) == (768, 16)
    assert isinstance(encoder.net.norm_pre, nn.LayerNorm)
    text = build(read_choice("model", "clip_text"), spec=pair_spec())
    assert (text.width, len(text.blocks), text.net.config.num_attention_heads, text.causal) == (512, 12, 8, True)
    block = text.net.h[3]
    for weight, std in (
        (text.net.wte.weight, 0.02),
        (text.net.wpe.weight, 0.01),
        (block.attn.c_attn.weight, 512**-0.5),
        (block.attn.c_proj.weight, 512**-0.5 * 24**-0.5),
        (block.mlp.c_fc.weight, 1024**-0.5),
        (block.mlp.c_proj.weight, 512**-0.5 * 24**-0.5),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.02)
    with pytest.raises(BadInput, match="known for the architecture gpt2 only"):
        text_encoder("bert", initialisation="clip")


def test_what_is_looked_at(pictures):
    data = TinyPairs(pictures)
    torch.manual_seed(0)
    encoder = TimmEncoder(data.spec, "vit_tiny_patch16_224", depth=1)
    objective = ImageText(encoder, data.spec, InfoNCE(), lambda spec: text_encoder("bert", spec), text_pool="end").eval()
    batch = next(iter(data.train_loader(objective.views(), 0, 1)))
    picture = objective.pictures(batch, draw_of(batch))["similarities"]
    assert picture.shape == (1, 8 * 16, 8 * 16)
    cosine = objective.pair.images(batch["views"][:, 0]) @ objective.pair.texts(batch).T
    torch.testing.assert_close(picture[0, ::16, ::16] * 2 - 1, cosine, rtol=1e-4, atol=1e-5)
    lines = objective.texts(batch, draw_of(batch))["nearest_captions"].splitlines()
    assert len(lines) == 2 + 8
    nearest = cosine[0].argmax().item()
    tokenizer = vocabulary().tokenizer
    own, best = (tokenizer.decode(batch["ids"][i], skip_special_tokens=True) for i in (0, nearest))
    assert lines[2].startswith(f"| {own} | {best} ({cosine[0, nearest]:.2f}), ")
