"""Encoders: shaped by the data, exported so that plain timm reads them, and honest about what does not fit."""

import json

import pytest
import timm
import torch
from conftest import jitter
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from datamodules.spec import DataSpec
from errors import BadInput
from models import attention
from models.attention import choose_attention, kernels_used, set_attention
from models.export import load_encoder, save_encoder
from models.timm_encoder import TimmEncoder, fitting_patch_size


@pytest.mark.parametrize(("size", "patch"), [(28, 2), (32, 4), (64, 8), (72, 6), (96, 8), (128, 16), (224, 16)])
def test_patch_size_gives_8_to_14_patches(size, patch):
    assert fitting_patch_size(size) == patch
    assert 8 <= size // patch <= 14


def test_a_size_that_no_patch_fits_names_the_nearest_that_do():
    with pytest.raises(BadInput, match="nearest: "):
        fitting_patch_size(37)


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_exported_weights_load_into_plain_timm(tmp_path, name, size):
    torch.manual_seed(0)
    encoder = TimmEncoder(DataSpec("tiny", "image", 10, size, 3), name).eval()
    save_encoder(encoder, tmp_path)
    recipe = json.loads((tmp_path / "encoder.json").read_text())
    plain = timm.create_model(recipe["name"], num_classes=0, **recipe["arguments"])
    if recipe["small_stem"]:  # the one change, as encoder.json says
        plain.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
        plain.maxpool = torch.nn.Identity()
    plain.load_state_dict(load_file(tmp_path / "encoder.safetensors"))
    images = torch.rand(2, 3, size, size)
    mean, std = (torch.tensor(recipe[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        ours = encoder(encoder.normalise(images)).pooled
        theirs = plain.eval()((images - mean) / std)
        again = load_encoder(tmp_path).eval()
        assert torch.equal(again(again.normalise(images)).pooled, ours)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert recipe["small_stem"] == (name == "resnet18" and size == 32)


def with_weights(name: str, pretrained: bool = False, **arguments: object) -> torch.nn.Module:
    """`timm.create_model`, whose weights need no network."""
    return create_model(name, **arguments)


create_model = timm.create_model
STEMS = {(32, True): False, (32, False): True, (65, True): False, (65, False): False}  # (px, pretrained) -> small


@pytest.mark.parametrize(("size", "pretrained"), STEMS)
def test_a_resnet_is_loaded_with_the_stem_that_it_was_trained_with(tmp_path, monkeypatch, size, pretrained):
    monkeypatch.setattr(timm, "create_model", with_weights)
    torch.manual_seed(0)
    encoder = TimmEncoder(DataSpec("tiny", "image", 10, size, 3), "resnet18", pretrained=pretrained).eval()
    assert encoder.small_stem is STEMS[size, pretrained]
    assert encoder.net.conv1.kernel_size == ((3, 3) if encoder.small_stem else (7, 7))
    save_encoder(encoder, tmp_path)
    again = load_encoder(tmp_path).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(again(images).tokens, encoder(images).tokens)


def test_timms_own_weights_from_a_file_can_be_taken_for_small_pictures(tmp_path, spec):
    torch.manual_seed(0)
    weights = timm.create_model("resnet18", num_classes=0).state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    encoder = TimmEncoder(spec, "resnet18", pretrained=str(tmp_path / "weights.safetensors"), small_stem=False)
    assert torch.equal(encoder.net.conv1.weight, weights["conv1.weight"])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vit_tiny_patch16_224", {"num_heads": 6}),  # of the same shapes: what is lost here is lost without a word
        ("vit_tiny_patch16_224", {"act_layer": "relu"}),
        ("vit_tiny_patch16_224", {"reg_tokens": 2, "init_values": 0.1, "fc_norm": True}),
        ("vit_tiny_patch16_224", {"patch_size": 8, "depth": 1}),
        ("resnet18", {"layers": (1, 1, 1, 1), "act_layer": "silu"}),
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "kernel_sizes": 3}),
    ],
)
def test_a_model_with_settings_of_its_own_is_loaded_as_it_was(tmp_path, spec, name, settings):
    torch.manual_seed(0)
    encoder = TimmEncoder(spec, name, settings=settings).eval()
    jitter(encoder)
    save_encoder(encoder, tmp_path)
    plain = TimmEncoder(spec, name) if settings.keys() <= {"num_heads", "act_layer"} else None
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = encoder(images)
        again = load_encoder(tmp_path).eval()(images)
        if plain is not None:
            plain.net.load_state_dict(encoder.net.state_dict())
            assert not torch.allclose(plain.eval()(images).pooled, expected.pooled, atol=1e-3)
    assert torch.equal(again.pooled, expected.pooled)
    assert torch.equal(again.tokens, expected.tokens)


def test_any_timm_model_fulfils_the_contract(spec):
    for name in ("convnext_atto", "mobilenetv3_small_050", "deit_tiny_patch16_224"):
        encoder = TimmEncoder(spec, name).eval()
        features = encoder(encoder.normalise(torch.rand(2, 3, 32, 32)))
        assert features.pooled.shape == (2, encoder.width)
        assert features.tokens.ndim == 3


def test_keeping_all_patches_changes_nothing_and_order_does_not_matter(vit):
    vit.eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        everything = vit(images)
        shuffled = torch.stack([torch.randperm(64) for _ in range(2)])
        kept = vit(images, keep=shuffled)
    torch.testing.assert_close(kept.pooled, everything.pooled, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(kept.tokens[1, 5], everything.tokens[1, shuffled[1, 5]], rtol=1e-4, atol=1e-5)


def test_only_kept_patches_enter_the_blocks(vit):
    lengths = []
    vit.blocks[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    vit(torch.randn(2, 3, 32, 32), keep=torch.arange(16).expand(2, 16))
    assert lengths == [17]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_only_kept_patches_are_embedded(spec, name):
    torch.manual_seed(0)
    encoder = TimmEncoder(spec, name).double()
    images = torch.rand(3, 3, spec.image_size, spec.image_size, dtype=torch.double)
    keep = torch.rand(3, encoder.num_patches).argsort(1)[:, :7]
    found = []
    assert encoder.embeds_some
    for some in (True, False):
        encoder.embeds_some = some
        encoder.zero_grad()
        with FlopCounterMode(display=False) as counter:
            seen = encoder(images, keep=keep)
        (seen.tokens.pow(3).sum() + seen.prefix.sum() + seen.pooled.sum()).backward()
        gradient = torch.cat([weight.grad.flatten() for weight in encoder.parameters() if weight.grad is not None])
        found.append((seen.tokens, seen.prefix, gradient, counter.get_total_flops()))
    for mine, other in zip(found[0][:3], found[1][:3], strict=True):
        torch.testing.assert_close(mine, other)
    assert found[0][3] < found[1][3]


def test_channels_come_from_the_data():
    encoder = TimmEncoder(DataSpec("grey", "image", 10, 28, 1), "vit_tiny_patch16_224", depth=1)
    assert encoder(encoder.normalise(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))).pooled.shape == (2, 192)


def test_pictures_of_another_size(vit, resnet, spec):
    assert [size for size in range(1, 41) if vit.takes(size)] == list(range(4, 41, 4))
    assert resnet.takes(5)
    assert vit.training
    assert not TimmEncoder(spec, "convnext_atto").takes(16)  # nothing is left to halve
    small = torch.randn(2, 3, 20, 20)
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=0, **vit.arguments)
    plain.load_state_dict(vit.net.state_dict())
    with torch.no_grad():
        features = vit.eval()(small)
        torch.testing.assert_close(features.pooled, plain.eval()(small))
    assert features.tokens.shape == (2, 25, 192)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_layers_cover_every_parameter_once_and_rise_from_stem_to_head(kind, request):
    encoder = request.getfixturevalue(kind)
    layers = encoder.layers()
    assert set(layers.values()) >= set(range(len(encoder.blocks) + 1))
    stem = "net.patch_embed.proj.weight" if kind == "vit" else "net.conv1.weight"
    assert layers[stem] == 0
    if kind == "vit":
        assert layers["net.norm.weight"] == len(encoder.blocks) + 1
        assert layers["net.blocks.1.attn.qkv.weight"] == 2


def test_pretrained_from_a_file_and_the_wrong_architecture(spec, vit, tmp_path):
    save_encoder(vit, tmp_path)
    file = str(tmp_path / "encoder.safetensors")
    again = TimmEncoder(spec, "vit_tiny_patch16_224", pretrained=file, depth=2)
    assert again.pretrained
    assert torch.equal(again.net.blocks[0].attn.qkv.weight, vit.net.blocks[0].attn.qkv.weight)
    with pytest.raises(BadInput, match="do not fit model 'resnet18'"):
        TimmEncoder(spec, "resnet18", pretrained=file)
    with pytest.raises(BadInput, match="there are no weights"):
        TimmEncoder(spec, "resnet18", pretrained=str(tmp_path / "nothing"))


def test_unknown_names_give_the_nearest(spec):
    with pytest.raises(BadInput, match="did you mean .*resnet18"):
        TimmEncoder(spec, "resnet81")


def test_a_rate_of_dropped_patches_is_refused_not_ignored(spec):
    with pytest.raises(BadInput, match=r"model.settings.patch_drop_rate=0.5 does nothing .*objective.patch_dropout"):
        TimmEncoder(spec, "vit_tiny_patch16_224", depth=1, settings={"patch_drop_rate": 0.5})
    TimmEncoder(spec, "vit_tiny_patch16_224", depth=1, settings={"patch_drop_rate": 0.0})


def test_a_cut_export_is_refused(vit, tmp_path):
    save_encoder(vit, tmp_path)
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadInput, match="cannot be read"):
        load_encoder(tmp_path)


def test_attention_kernels_agree(vit):
    images = torch.randn(2, 3, 32, 32)
    pooled = {}
    for kernel in ("eager", "sdpa"):
        set_attention(vit, kernel)
        assert kernels_used(vit) == {kernel}
        pooled[kernel] = vit(images).pooled
    torch.testing.assert_close(pooled["eager"], pooled["sdpa"], rtol=1e-4, atol=1e-5)


def test_attention_is_chosen_by_device_and_length(monkeypatch):
    assert choose_attention("auto", "cpu", "bf16", 64)[0] == "eager"
    assert choose_attention("auto", "cpu", "bf16", 4096)[0] == "sdpa"
    assert choose_attention("auto", "cpu", "fp32", 64)[0] == "sdpa"
    for hopper, kernel in ((True, "short"), (False, "sdpa")):  # the kernel was measured on that kind of GPU alone
        monkeypatch.setattr(attention, "is_hopper", lambda hopper=hopper: hopper)
        assert choose_attention("auto", "cuda", "bf16", 64)[0] == kernel
        assert choose_attention("short", "cuda", "bf16", 64)[0] == kernel
        assert choose_attention("auto", "cuda", "fp32", 64)[0] == "sdpa"
    assert choose_attention("auto", "mps", "bf16", 64)[0] == "sdpa"
    assert choose_attention("short", "cpu", "bf16", 64) == ("eager", "its kernel is for Hopper GPUs")
    assert choose_attention("eager", "cpu", "fp32", 64)[0] == "eager"
    assert choose_attention("flex", "cuda", "bf16", 64) == ("flex", "as asked")
    assert choose_attention("flex", "cpu", "bf16", 64) == ("eager", "FlexAttention does not train on cpu")
    kernel, reason = choose_attention("xformers", "cpu", "fp32", 64)
    assert kernel in ("eager", "sdpa")
    assert "xFormers" in reason
    with pytest.raises(BadInput, match="did you mean eager"):
        choose_attention("eagr", "cpu", "fp32", 64)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "vit_base_patch16_clip_quickgelu_224",
        "deit3_small_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "vit_small_patch14_reg4_dinov2",
    ],
)
def test_the_class_token_alone_is_as_among_all(spec, kernel, name):
    torch.manual_seed(0)
    encoder = TimmEncoder(spec, name, depth=2, pool="token", settings={"embed_dim": 96, "num_heads": 3}).double().eval()
    jitter(encoder)
    set_attention(encoder, kernel)
    images, keep = torch.rand(2, 3, 32, 32).double(), torch.tensor([[5, 1, 7], [0, 2, 3]])
    for keep_BK in (None, keep):
        found, weights = [], list(encoder.parameters())
        for pooled in (encoder.embed(images, keep_BK), encoder(images, keep_BK).pooled):
            grads = torch.autograd.grad(pooled.square().sum(), weights, allow_unused=True)
            found.append((pooled, [grad for grad in grads if grad is not None]))
        torch.testing.assert_close(*found)


def test_the_class_token_alone_costs_less(spec):
    encoder, images = TimmEncoder(spec, "vit_tiny_patch16_224", depth=1, pool="token"), torch.rand(1, 3, 32, 32)

    def flops(run) -> int:
        with FlopCounterMode(display=False) as counter:
            run(images)
        return counter.get_total_flops()

    width, length = 192, 65
    # query, output and feed-forward of all tokens but one; their scores and mixing
    spared = 2 * 64 * (2 + 8) * width**2 + 2 * 64 * 2 * length * width
    assert flops(encoder) - flops(encoder.embed) == spared


def test_a_mean_of_patches_needs_them_all(spec):
    encoder, images = TimmEncoder(spec, "vit_tiny_patch16_224", depth=1).eval(), torch.rand(1, 3, 32, 32)
    assert not encoder.reads_prefix_alone
    assert torch.equal(encoder.embed(images), encoder(images).pooled)
