"""MAE against transformers' ViTMAEForPreTraining: copied weights, the same mask; loss and gradients in fp32 to 1e-5."""

import pytest
import torch
from lightly.models.utils import get_2d_sine_cosine_positional_embedding
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from datamodules.spec import DataSpec
from models.positions import sincos_positions
from models.timm_encoder import TimmEncoder
from objectives.draw import Draw
from objectives.mae import MaskedAutoencoder

WIDTH, DEPTH, HEADS, DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 192, 2, 3, 64, 2, 4


def theirs_from_ours(mae: MaskedAutoencoder) -> dict[str, torch.Tensor]:
    """Our weights under transformers' names."""
    net, state = mae.encoder.net, {}

    def put(name: str, module: torch.nn.Module) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = module.weight, module.bias

    def put_block(prefix: str, block: torch.nn.Module) -> None:
        attention = f"{prefix}.attention."
        for name, weight, bias in zip(
            ("q_proj", "k_proj", "v_proj"), block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3), strict=True
        ):
            state[f"{attention}{name}.weight"], state[f"{attention}{name}.bias"] = weight, bias
        put(f"{attention}o_proj", block.attn.proj)
        put(f"{prefix}.layernorm_before", block.norm1)
        put(f"{prefix}.layernorm_after", block.norm2)
        put(f"{prefix}.mlp.fc1", block.mlp.fc1)
        put(f"{prefix}.mlp.fc2", block.mlp.fc2)

    state["vit.embeddings.cls_token"] = net.cls_token
    state["vit.embeddings.position_embeddings"] = net.pos_embed
    put("vit.embeddings.patch_embeddings.projection", net.patch_embed.proj)
    for i, block in enumerate(net.blocks):
        put_block(f"vit.layers.{i}", block)
    put("vit.layernorm", net.norm)
    state["decoder.mask_token"] = mae.mask_token
    state["decoder.decoder_pos_embed"] = mae.positions_LE[None]
    put("decoder.decoder_embed", mae.enter)
    for i, block in enumerate(mae.decoder[:-1]):
        put_block(f"decoder.decoder_layers.{i}", block)
    put("decoder.decoder_norm", mae.decoder[-1])
    put("decoder.decoder_pred", mae.predict)
    return state


@pytest.fixture(params=[True, False], ids=["norm_pix", "raw_pixels"])
def pair(request) -> tuple[MaskedAutoencoder, ViTMAEForPreTraining]:
    torch.manual_seed(0)
    spec = DataSpec("tiny", "image", 100, 32, 3)
    encoder = TimmEncoder(spec, "vit_tiny_patch16_224", depth=DEPTH, positions="sincos")
    ours = MaskedAutoencoder(
        encoder,
        spec,
        decoder_width=DECODER_WIDTH,
        decoder_depth=DECODER_DEPTH,
        decoder_heads=DECODER_HEADS,
        normalise_target=request.param,
    )
    for name, weight in ours.named_parameters():  # the paper's zero biases would hide a lost bias
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.1)
    config = ViTMAEConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        image_size=32,
        patch_size=4,
        decoder_hidden_size=DECODER_WIDTH,
        decoder_num_hidden_layers=DECODER_DEPTH,
        decoder_num_attention_heads=DECODER_HEADS,
        decoder_intermediate_size=4 * DECODER_WIDTH,
        norm_pix_loss=request.param,
        layer_norm_eps=1e-6,
        mask_ratio=0.75,
    )
    return ours, ViTMAEForPreTraining(config)


def test_loss_and_gradients_equal(pair):
    ours, theirs = pair
    state = theirs_from_ours(ours)
    assert set(state) == set(theirs.state_dict())

    views = torch.randint(0, 256, (5, 1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    draw = Draw(3, torch.zeros(5, dtype=torch.long), torch.arange(5))
    order = torch.cat(ours.split(draw), dim=1)
    noise = order.argsort(1).float()  # whose argsort is the same order
    our_loss = ours({"views": views}, draw).loss
    pixels = ours.encoder.normalise(views[:, 0])
    their_loss = torch.func.functional_call(theirs, state, (pixels,), {"noise": noise}).loss
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-5, atol=1e-5)

    weights = {name: weight for name, weight in ours.named_parameters() if weight.requires_grad}
    our_gradients = torch.autograd.grad(our_loss, list(weights.values()))
    their_gradients = torch.autograd.grad(their_loss, list(weights.values()))
    for name, mine, other in zip(weights, our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_positions_equal_lightlys():
    expected = torch.from_numpy(get_2d_sine_cosine_positional_embedding(WIDTH, 8, cls_token=True)).float()
    torch.testing.assert_close(sincos_positions(WIDTH, 8, 1), expected, rtol=1e-5, atol=1e-5)
