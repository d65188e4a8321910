"""timm's families behind the Encoder contract, each small: they compute what timm does, train, or are refused in one line."""

import pytest
import timm
import torch

from datamodules.spec import DataSpec
from errors import BadInput
from models.export import load_encoder, save_encoder
from models.timm_encoder import TimmEncoder
from objectives.draw import Draw
from objectives.simclr import SimCLR
from training.fitting import check_needs

SIZE = 64
SPEC = DataSpec("tiny", "image", 100, SIZE, 3, ("a", "b", "c"))
VIT = {"embed_dim": 48, "depth": 2, "num_heads": 2}
SWIN = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
FAMILIES = {  # name -> what makes it small
    "eva02_tiny_patch14_224": VIT | {"patch_size": 16},
    "vit_small_patch16_dinov3": VIT,
    "beit_base_patch16_224": VIT,
    "beitv2_base_patch16_224": VIT,
    "hiera_tiny_224": {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)},
    "sam2_hiera_tiny": {"embed_dim": 16, "stages": (1, 1, 1, 1), "global_att_blocks": ()},
    "swin_tiny_patch4_window7_224": SWIN,
    "swinv2_tiny_window8_256": SWIN,
    "cait_xxs24_224": VIT,
    "xcit_nano_12_p16_224": VIT,
    "vit_srelpos_small_patch16_224": VIT,
    "vit_tiny_r_s16_p8_224": VIT,
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
    "mobilenetv3_small_050": {},
    "mobilenetv4_conv_small_035": {},
    "efficientnet_lite0": {},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_computes_what_timm_does_and_trains_a_step(name, tmp_path):
    torch.manual_seed(0)
    encoder = TimmEncoder(SPEC, name, settings=FAMILIES[name])
    plain = timm.create_model(name, num_classes=0, **encoder.arguments)
    plain.load_state_dict(encoder.net.state_dict())
    batch = {
        "views": torch.randint(0, 256, (4, 2, 3, SIZE, SIZE), dtype=torch.uint8),
        "epoch": torch.zeros(4, dtype=torch.long),
        "index": torch.arange(4),
    }
    images = encoder.normalise(batch["views"][:, 0])
    with torch.no_grad():
        features = encoder.eval()(images)
        torch.testing.assert_close(features.pooled, plain.eval()(images), rtol=1e-4, atol=1e-5)
        save_encoder(encoder, tmp_path)
        again = load_encoder(tmp_path).eval()
        assert torch.equal(again(images).tokens, features.tokens)
    assert features.pooled.shape == (4, encoder.width)
    assert features.tokens.ndim == 3
    assert features.tokens.shape[2] == encoder.net.num_features
    assert features.prefix.shape[1] == getattr(encoder.net, "num_prefix_tokens", 0)
    assert features.tokens.isfinite().all()

    objective = SimCLR(encoder.train(), SPEC, projector_width=16, embedding_width=8)
    objective(batch, Draw(0, batch["epoch"], batch["index"])).loss.backward()
    gradients = [weight.grad for weight in encoder.parameters() if weight.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)

    assert not encoder.drops_patches
    with pytest.raises(BadInput, match=f"'{name}' cannot drop patches"):
        encoder(images, keep=torch.zeros(4, 1, dtype=torch.long))
    with pytest.raises(BadInput, match="needs a model that can drop patches, which model=timm cannot"):
        check_needs({"objective": "mae", "model": "timm"}, encoder, SPEC)
    with pytest.raises(BadInput, match="no position embedding to fix"):
        TimmEncoder(SPEC, name, positions="sincos", settings=FAMILIES[name])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inception_v3", "cannot read pictures of 64 px as they are"),
        ("crossvit_tiny_240", "cannot read pictures of 64 px as they are"),
        ("deit_tiny_distilled_patch16_224", "cannot be built for 64 px"),
    ],
)
def test_what_cannot_read_the_pictures_is_refused_by_name(name, expected):
    with pytest.raises(BadInput, match=f"model '{name}' {expected}: .{{5,}}"):
        TimmEncoder(SPEC, name)


@pytest.mark.parametrize("setting", [{"depth": 2}, {"patch_size": 8}, {"pool": "token"}])
def test_what_only_vision_transformers_have_is_not_ignored_by_others(setting):
    ((key, value),) = setting.items()
    with pytest.raises(BadInput, match=f"model.{key}={value} is for timm's vision transformers, and 'convnext_atto' is none"):
        TimmEncoder(SPEC, "convnext_atto", **setting)
