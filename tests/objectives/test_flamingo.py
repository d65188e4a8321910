"""Flamingo: nothing changes at the start, other implementations with the same weights, what a word may see, and shots."""

import pytest
import torch
import torch.nn.functional as F
from conftest import CLS, SEP, text_encoder
from made_pairs import pair_batch, pair_spec
from made_runs import write_teacher
from torch import Tensor, nn
from transformers import IdeficsConfig
from transformers.activations import ACT2FN
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

from errors import BadInput
from models.export import save_encoder
from models.pair import PairHead
from models.timm_encoder import TimmEncoder
from objectives.captioning import until_end
from objectives.draw import Draw
from objectives.flamingo import Flamingo, alone, behind_fixed_others, behind_others
from objectives.gated_attention import Resampler
from training.fitting import check_needs

SPEC = pair_spec()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    encoder = text_encoder("gpt2", SPEC)
    encoder.embedding_VD.data.mul_(20)  # one that can be sure of a word, as one that has learned
    save_encoder(encoder, folder)
    return folder


def make(run, gate: float | None = 0.5, **settings) -> Flamingo:
    torch.manual_seed(0)
    encoder = TimmEncoder(SPEC, "vit_tiny_patch16_224", depth=1)
    objective = Flamingo(encoder, SPEC, str(run), **{"num_latents": 5, "shots": 2} | settings)
    for layer in objective.layers if gate is not None else []:
        nn.init.constant_(layer.attention_gate, gate)
        nn.init.constant_(layer.mlp_gate, -gate)
    return objective


def draw_of(batch) -> Draw:
    return Draw(0, batch["epoch"], batch["index"])


def rows_of(objective: Flamingo, batch) -> tuple[Tensor, Tensor, Tensor]:
    return behind_fixed_others(objective.sum_up(batch["views"][:, 0]), batch, objective.shots)


def test_at_the_start_the_language_model_writes_as_without_pictures(run):
    objective, batch = make(run, gate=None), pair_batch(4)
    hidden = objective.read(*alone(objective.sum_up(batch["views"][:, 0]), batch))[:, 0]
    model = objective.text_encoder
    own = model(model.inputs(batch)).tokens
    assert torch.equal(hidden[batch["present"]], own[batch["present"]])
    assert all(gate.shape == (1,) and gate == 0 for layer in objective.layers for gate in layer.gates())
    assert all(weight.ndim for weight in objective.parameters())  # FSDP2 shards no scalars
    objective(batch, draw_of(batch)).loss.backward()
    for layer in objective.layers:  # and the gates can open
        assert layer.attention_gate.grad.abs() > 0
        assert layer.mlp_gate.grad.abs() > 0


def test_the_resampler_against_that_of_transformers():
    torch.manual_seed(0)
    ours, config = Resampler(64, 6, 2), IdeficsConfig(vision_config={"embed_dim": 64})
    theirs = IdeficsPerceiverResampler(config, 64, 2, 1, 64, 6)
    same = [(ours.latents_MD, theirs.latents), (ours.norm.weight, theirs.layer_norm.weight)]
    same.append((ours.norm.bias, theirs.layer_norm.bias))
    for layer, (attention, net) in zip(ours.layers, theirs.blocks, strict=True):
        net.act = ACT2FN["relu2"]
        key, value = layer["attention"].key_value.weight.chunk(2)
        same += [(key, attention.k_proj.weight), (value, attention.v_proj.weight)]
        same += [(layer["attention"].query.weight, attention.q_proj.weight)]
        same += [(layer["attention"].out.weight, attention.output_proj.weight)]
        for norm, other in (
            (layer["context_norm"], attention.context_layer_norm), (layer["norm"], attention.latents_layer_norm),
            (layer["mlp"][0], net.ln),
        ):  # fmt: skip
            same += [(norm.weight, other.weight), (norm.bias, other.bias)]
        same += [(layer["mlp"][1].weight, net.fc.weight), (layer["mlp"][3].weight, net.c_proj.weight)]
    with torch.no_grad():
        for mine, other in same:
            mine.add_(0.1 * torch.randn_like(mine))
            other.copy_(mine)
    tokens = torch.randn(3, 9, 64)
    for fused in (True, False):
        for layer in ours.layers:
            layer["attention"].fused_attn = fused
        torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-5, atol=1e-5)


def plainly(objective: Flamingo, latents: Tensor, captions: list[Tensor]) -> Tensor:
    """One row without padding, token by token as the paper says; (T, W)."""
    net = objective.text_encoder.net
    ids = torch.cat(captions)
    picture = torch.cat([torch.full((len(own),), number) for number, own in enumerate(captions)])
    hidden = (net.wte(ids) + net.wpe(torch.arange(len(ids))))[None]
    elsewhere = picture[:, None] != torch.arange(len(captions)).repeat_interleave(latents.shape[1])[None]
    for block, layer in zip(net.h, objective.layers, strict=True):
        attention, width = layer.attention, hidden.shape[-1]
        key, value = attention.key_value.weight.chunk(2)
        context = latents.flatten(0, 1)[:, None]
        seen, _ = F.multi_head_attention_forward(
            layer.norm(hidden).transpose(0, 1), context, context, width, attention.num_heads, None, None, None, None, False,
            0.0, attention.out.weight, None, attn_mask=elsewhere, use_separate_proj_weight=True,
            q_proj_weight=attention.query.weight, k_proj_weight=key, v_proj_weight=value,
        )  # fmt: skip
        hidden = hidden + layer.attention_gate.tanh() * seen.transpose(0, 1)
        inner = F.relu(layer.mlp[0](hidden) @ layer.mlp[1].weight.T) ** 2
        hidden = hidden + layer.mlp_gate.tanh() * (inner @ layer.mlp[3].weight.T)
        later = torch.full((len(ids), len(ids)), float("-inf")).triu(1)
        hidden = block(hidden, None, later[None, None])
    return net.ln_f(hidden)[0]


@pytest.mark.parametrize("shots", [0, 2])
def test_loss_and_gradients_against_a_plain_reading_of_the_paper(run, shots):
    objective, batch = make(run, shots=shots), pair_batch(5)
    outcome = objective(batch, draw_of(batch))
    weights = [weight for weight in objective.parameters() if weight.requires_grad]
    found = torch.autograd.grad(outcome.loss, weights)

    ring = draw_of(batch).bits("ring", 1)[:, 0].argsort().tolist()
    latents = objective.sum_up(batch["views"][:, 0])
    nats, num = 0.0, 0
    for sample in range(5):
        place = ring.index(sample)
        row = [ring[(place - back) % 5] for back in range(shots, -1, -1)]
        captions = [batch["ids"][one][batch["present"][one]] for one in row]
        hidden = plainly(objective, latents[row], captions).split([len(own) for own in captions])
        for own, states in zip(captions, hidden, strict=True):
            nats = nats + F.cross_entropy(states[:-1] @ objective.text_encoder.embedding_VD.T, own[1:], reduction="sum")
            num += len(own) - 1
    torch.testing.assert_close(outcome.loss, nats / num, rtol=1e-5, atol=1e-5)
    for mine, other in zip(found, torch.autograd.grad(nats / num, weights), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    names = {name.partition(".")[0] for name, weight in objective.named_parameters() if weight.requires_grad}
    assert names == {"resampler", "layers"}


def test_a_word_sees_its_own_picture_and_what_was_written_before(run):
    objective, batch = make(run).eval(), pair_batch(5)
    latents, ids, present = rows_of(objective, batch)
    before = objective.read(latents, ids, present)
    for number in range(3):
        changed = latents.clone()
        changed[:, number] = torch.randn_like(changed[:, number])
        after = objective.read(changed, ids, present)
        assert torch.equal(after[:, :number], before[:, :number])
        for later in range(number, 3):  # its own picture, or a caption that was read with it
            assert not torch.allclose(after[:, later][present[:, later]], before[:, later][present[:, later]])


def test_everybody_stands_behind_those_before_them_in_the_ring():
    ring = torch.tensor([3, 0, 4, 1, 2])
    assert behind_others(ring, 2).tolist() == [[2, 3, 0], [0, 4, 1], [4, 1, 2], [1, 2, 3], [3, 0, 4]]
    assert behind_others(ring, 0).tolist() == [[0], [1], [2], [3], [4]]


def test_shots_of_validation_are_no_neighbours_and_always_the_same():
    num = 200
    batch = pair_batch(4)
    batch = {name: batch[name][:1].expand(num, *batch[name].shape[1:]) for name in ("ids", "present")}
    batch |= {"index": torch.arange(num), "epoch": torch.zeros(num, dtype=torch.long)}
    numbers = torch.arange(num)[:, None, None].float()  # for latents: who stands where
    rows = behind_fixed_others(numbers, batch, 3)[0][:, :, 0, 0].long()
    assert rows.shape == (num, 4)
    assert torch.equal(rows[:, -1], torch.arange(num))
    assert all(len(row.unique()) == 4 for row in rows)
    assert (rows[:, :-1].flatten().bincount() == 3).all()  # everybody is a shot of as many
    near = ((rows[:, :-1] - rows[:, -1:] + num // 2) % num - num // 2).abs() <= 3
    assert near.sum() <= 40  # 18 expected of 600
    later = batch | {"epoch": batch["epoch"] + 5}
    assert torch.equal(behind_fixed_others(numbers, later, 3)[0][:, :, 0, 0].long(), rows)
    order = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    turned = behind_fixed_others(numbers[order], batch | {"index": order}, 3)[0][:, :, 0, 0].long()
    assert torch.equal(turned, rows[order])


def test_pairs_are_learned_without_moving_what_others_learned(run):
    objective, batch = make(run, gate=None), pair_batch(4)
    fixed = {
        name: tensor.clone()
        for name, tensor in objective.state_dict().items()
        if name.startswith(("encoder.", "text_encoder."))
    }
    before = {part.kind: (part.nats / part.num_targets).exp().item() for part in objective.eval().likelihood(batch)}
    assert list(before) == ["caption_perplexity", "caption_perplexity_2_shots"]
    optimizer = torch.optim.Adam([weight for weight in objective.parameters() if weight.requires_grad], lr=3e-3)
    objective.train()
    for step in range(150):
        seen = batch | {"epoch": torch.full((4,), step)}
        outcome = objective(seen, draw_of(seen))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
    assert not objective.encoder.training
    assert not objective.text_encoder.training
    assert all(torch.equal(tensor, objective.state_dict()[name]) for name, tensor in fixed.items())
    assert outcome.report["gate"] > 0.01
    assert outcome.report["feature_std"] > 0.05
    objective.eval()
    after = {part.kind: (part.nats / part.num_targets).exp().item() for part in objective.likelihood(batch)}
    for kind, value in after.items():
        assert value < 0.2 * before[kind], kind
    own = batch["present"].sum() - 4  # of several captions in a row the last is judged
    assert all(part.num_targets == own for part in objective.likelihood(batch))
    rows = alone(objective.sum_up(batch["views"][:, 0]), batch)
    written = objective.captions(*rows)
    for row in range(4):
        own = batch["ids"][row][batch["present"][row]]
        assert until_end(written[row], SEP).tolist() == own[:-1].tolist()
        assert written[row, 0] == CLS
    table = objective.texts(batch, draw_of(batch))["captions"].splitlines()
    assert [line.count("|") for line in table] == [4] * 6
    assert objective.pictures(batch, draw_of(batch))["views"].shape == (3, 32, 128)


def test_a_model_that_learned_nothing_is_refused():
    names = {"objective": "flamingo", "model": "vit_t", "datamodule": "emoji_captions"}
    encoder = TimmEncoder(SPEC, "vit_tiny_patch16_224", depth=1)
    with pytest.raises(BadInput, match="leaves the model as it is, .*model.pretrained=<run folder>/encoder.safetensors"):
        check_needs(names, encoder, SPEC)
    encoder.pretrained = True
    check_needs(names, encoder, SPEC)


@pytest.mark.parametrize(
    ("which", "reason"),
    [
        ("picture", "text='.*' is a run on image; fits: a run of objective=causal_lm"),
        ("bert", "is a run on text, not a causal one; fits"),
        ("pair", "is a run of two towers; fits"),
        ("other", "writes with another tokenizer than 'syllables' has; set datamodule.tokenizer.path="),
        ("nowhere", "holds no encoder.json"),
    ],
)
def test_language_models_that_do_not_fit_are_refused(tmp_path, which, reason):
    folder = tmp_path / which
    if which == "picture":
        write_teacher(folder)
    elif which != "nowhere":
        folder.mkdir()
        spec = pair_spec()
        if which == "other":
            from made_pairs import vocabulary

            spec = type(spec)("other", "text", 1, block_length=16, vocabulary=vocabulary())
        save_encoder(text_encoder("bert" if which == "bert" else "gpt2", spec), folder)
        if which == "pair":
            (folder / "encoder.json").rename(folder / "text_encoder.json")
            (folder / "encoder").rename(folder / "text_encoder")
            save_encoder(PairHead(8, 8, 4, "end"), folder, "pair")
    with pytest.raises(BadInput, match=reason):
        make(folder)


def test_settings_that_cannot_be_are_refused(run):
    with pytest.raises(BadInput, match=r"shots must be 0 or more, num_latents .* 1 or more, not -1, 5 and 2"):
        make(run, shots=-1)
    with pytest.raises(BadInput, match="41 captions of 16 tokens do not fit the 512 positions of objective.text"):
        make(run, shots=40)
    objective = make(run, shots=3)
    with pytest.raises(BadInput, match="shots=3 are other samples of the batch: datamodule.batch_size=3"):
        objective.check_batch(3)
    objective.check_batch(4)
