"""Captioning: a decoder of PyTorch's with the same weights, what each way of predicting sees, and captions that are learned."""

import pytest
import torch
import torch.nn.functional as F
from conftest import CLS, PAD, SEP, jitter
from made_pairs import pair_batch, pair_spec
from torch import Tensor, nn

from errors import BadInput
from models.timm_encoder import TimmEncoder
from objectives.captioning import Captioning, until_end
from objectives.draw import Draw
from training.flops import sample_flops

SPEC = pair_spec()


def make(seed: int = 0, **settings) -> Captioning:
    torch.manual_seed(seed)
    encoder = TimmEncoder(SPEC, "vit_tiny_patch16_224", depth=1)
    objective = Captioning(encoder, SPEC, **{"decoder_depth": 2} | settings)
    jitter(objective.decoder)
    return objective.eval()


def draw_of(batch) -> Draw:
    return Draw(0, batch["epoch"], batch["index"])


def plain_decoder(objective: Captioning) -> tuple[nn.TransformerDecoder, list[tuple[Tensor, Tensor]]]:
    """PyTorch's own decoder with the same weights, and which weight of ours is which of its (transposed, as GPT-2 has them)."""
    net = objective.decoder
    config = net.config
    layer = nn.TransformerDecoderLayer(
        config.n_embd, config.n_head, 4 * config.n_embd, 0.0, lambda x: F.gelu(x, approximate="tanh"),
        batch_first=True, norm_first=True,
    )  # fmt: skip
    theirs = nn.TransformerDecoder(layer, config.n_layer, nn.LayerNorm(config.n_embd))
    same: list[tuple[Tensor, Tensor]] = [(net.ln_f.weight, theirs.norm.weight), (net.ln_f.bias, theirs.norm.bias)]
    for ours, own in zip(net.h, theirs.layers, strict=True):
        for norm, other in ((ours.ln_1, own.norm1), (ours.ln_cross_attn, own.norm2), (ours.ln_2, own.norm3)):
            same += [(norm.weight, other.weight), (norm.bias, other.bias)]
        linear = [(ours.attn.c_proj, own.self_attn.out_proj), (ours.crossattention.c_proj, own.multihead_attn.out_proj)]
        for conv, other in (*linear, (ours.mlp.c_fc, own.linear1), (ours.mlp.c_proj, own.linear2)):
            same += [(conv.weight, other.weight), (conv.bias, other.bias)]
        same += [(ours.attn.c_attn.weight, own.self_attn.in_proj_weight), (ours.attn.c_attn.bias, own.self_attn.in_proj_bias)]
        cross, whole = ours.crossattention, own.multihead_attn
        with torch.no_grad():
            whole.in_proj_weight.copy_(torch.cat([cross.q_attn.weight, cross.c_attn.weight], dim=1).T)
            whole.in_proj_bias.copy_(torch.cat([cross.q_attn.bias, cross.c_attn.bias]))
    with torch.no_grad():
        for mine, other in same:
            other.copy_(mine.T if mine.ndim == 2 else mine)
    return theirs, same


@pytest.mark.parametrize("parallel_share", [0.0, 0.5, 1.0])
def test_loss_and_gradients_against_a_plain_decoder(parallel_share):
    objective, batch = make(parallel_share=parallel_share), pair_batch(6)
    theirs, same = plain_decoder(objective)
    outcome = objective(batch, draw_of(batch))
    outcome.loss.backward()

    parallel = draw_of(batch).uniform("parallel", 1)[:, 0] < parallel_share
    assert parallel.sum().item() == {0.0: 0, 0.5: 3, 1.0: 6}[parallel_share]
    tables = [weight.detach().clone().requires_grad_() for weight in (objective.decoder.wte.weight, objective.mask_W)]
    embedding, mask = tables
    places = objective.decoder.wpe.weight.detach()
    with torch.no_grad():
        tokens = objective.encoder(objective.encoder.inputs(batch)).tokens
    memory = tokens.clone().requires_grad_()
    nats, num_targets = 0.0, 0
    for row, length in enumerate(batch["present"].sum(1).tolist()):  # one sample at a time, nothing padded
        ids = batch["ids"][row, :length]
        if parallel[row]:
            inputs = (mask.expand(SPEC.block_length - 1, -1) + places[:-1])[None]
            hidden = theirs(inputs, memory[row][None])[0, : length - 1]
        else:
            inputs = (embedding[ids[:-1]] + places[: length - 1])[None]
            later = torch.ones(length - 1, length - 1, dtype=torch.bool).triu(1)
            hidden = theirs(inputs, memory[row][None], tgt_mask=later)[0]
        nats = nats + F.cross_entropy(hidden @ embedding.T, ids[1:], reduction="sum")
        num_targets += length - 1
    loss = nats / num_targets
    loss.backward()

    torch.testing.assert_close(outcome.loss, loss, rtol=1e-5, atol=1e-5)
    for mine, other in same:
        torch.testing.assert_close(mine.grad, other.grad.T if mine.ndim == 2 else other.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(objective.decoder.wte.weight.grad, embedding.grad, rtol=1e-5, atol=1e-5)
    if parallel_share:
        torch.testing.assert_close(objective.mask_W.grad, mask.grad, rtol=1e-5, atol=1e-5)
    learned = [weight for weight in objective.encoder.parameters() if weight.requires_grad]
    again = objective.encoder(objective.encoder.inputs(batch)).tokens
    for weight, expected in zip(learned, torch.autograd.grad(again, learned, memory.grad), strict=True):
        torch.testing.assert_close(weight.grad, expected, rtol=1e-4, atol=1e-5)


def test_three_of_four_samples_are_predicted_in_parallel():
    many = torch.arange(20_000)
    found = Draw(3, torch.zeros_like(many), many).uniform("parallel", 1)[:, 0] < make().parallel_share
    assert found.float().mean().item() == pytest.approx(0.75, abs=0.01)


def test_a_sample_gives_the_same_whatever_stands_beside_it():
    objective, batch = make(), pair_batch(6)
    together = objective(batch, draw_of(batch)).loss * (batch["present"].sum() - 6)
    alone = 0.0
    for row in range(6):
        length = -(-int(batch["present"][row].sum()) // 4) * 4  # its own length, filled up a little
        part = {name: value[row : row + 1] for name, value in batch.items() if value.ndim}
        part |= {name: part[name][:, :length] for name in ("ids", "present")}
        alone = alone + objective(part, draw_of(part)).loss * (part["present"].sum() - 1)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-4)


def test_nothing_of_the_caption_is_seen_in_parallel_and_only_what_came_before_else():
    objective, batch = make(), pair_batch(4)
    ids = batch["ids"][:, :-1]
    other = ids.clone()
    other[:, 6:] = 7
    tokens = torch.randn(4, 9, 192)
    for parallel, unmoved in ((True, 11), (False, 6)):
        which = torch.full((4,), parallel)
        before, after = (objective.decode(tokens, row, which) for row in (ids, other))
        assert torch.equal(before[:, :unmoved], after[:, :unmoved])
        assert parallel or not torch.allclose(before[:, unmoved:], after[:, unmoved:])
    first, moved = (objective.decode(tokens + shift, ids, torch.tensor([True] * 4)) for shift in (0, torch.randn(4, 9, 192)))
    assert not torch.allclose(first, moved)  # the picture is seen


def test_captions_are_learned_and_written_again():
    torch.manual_seed(0)
    objective, batch = make(parallel_share=0.5).train(), pair_batch(4)
    optimizer = torch.optim.Adam(objective.parameters(), lr=2e-3)
    for step in range(80):
        seen = batch | {"epoch": torch.full((4,), step)}
        outcome = objective(seen, draw_of(seen))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
    objective.eval()
    assert outcome.loss < 0.1
    assert outcome.report["feature_std"] > 0.1
    likelihood = objective.likelihood(batch)
    assert likelihood.num_targets == batch["present"].sum() - 4
    assert (likelihood.nats / likelihood.num_targets).exp() < 1.5
    written = objective.captions(batch["views"][:, 0])
    for row in range(4):
        own = batch["ids"][row][batch["present"][row]]
        assert until_end(written[row], SEP).tolist() == own[:-1].tolist()
    table = objective.texts(batch, draw_of(batch))["captions"].splitlines()
    for row in table[2:]:
        caption, again = row.strip("|").split("|")
        assert caption.strip() == again.strip() != ""
    assert objective.pictures(batch, draw_of(batch))["views"].shape == (3, 32, 128)


def test_what_follows_an_end_is_void():
    assert until_end(torch.tensor([CLS, 7, 8, SEP, 9, SEP]), SEP).tolist() == [CLS, 7, 8]
    assert until_end(torch.tensor([SEP, 7, SEP, 9]), SEP).tolist() == [SEP, 7]  # GPT-2 starts texts with the same token
    assert until_end(torch.tensor([CLS, 7, PAD]), SEP).tolist() == [CLS, 7, PAD]


def test_a_decoder_may_be_narrower_and_its_cost_is_counted():
    torch.manual_seed(0)
    wide, narrow = (
        Captioning(TimmEncoder(SPEC, "vit_tiny_patch16_224", depth=1), SPEC, decoder_depth=2, decoder_width=width)
        for width in (None, 64)
    )
    assert isinstance(wide.bridge, nn.Identity)
    assert [made.decoder.config.n_head for made in (wide, narrow)] == [3, 1]
    batch = pair_batch(8)

    def decoder_flops(width: int, tokens: int, places: int, depth: int = 2) -> float:
        own = 2 * places * width * width * (4 + 2 + 8) + 2 * tokens * width * width * 2
        attention = 4 * places * (places + tokens) * width
        return 3 * (depth * (own + attention) + 2 * places * width * SPEC.vocabulary.size)

    counted = [sample_flops(made, batch, 8) for made in (wide, narrow)]
    expected = decoder_flops(192, 64, 15) - decoder_flops(64, 64, 15) - 3 * 2 * 64 * 192 * 64
    assert counted[0] - counted[1] == pytest.approx(expected, rel=0.01)
    for made in (wide, narrow):
        made(batch, draw_of(batch)).loss.backward()
        assert all(weight.grad is not None for weight in made.parameters() if weight.requires_grad)
        assert all(weight.ndim for weight in made.parameters())  # FSDP2 shards no scalars


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"parallel_share": 1.5}, "parallel_share must be between 0 and 1, not 1.5"),
        ({"decoder_depth": 0}, "must be positive, not 192 and 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, expected):
    with pytest.raises(BadInput, match=expected):
        make(**settings)
