"""Replaced-token detection: the samples' law, the labels, who trains what, and both kinds of sharing."""

import pytest
import torch
from conftest import MASK, text_batch, text_encoder, text_spec
from scipy import stats
from torch import Tensor, nn

from errors import BadInput
from objectives.draw import Draw
from objectives.rtd import ReplacedTokenDetection, detection_report
from objectives.text_samples import pick
from training.optimization import Optimization

SPEC = text_spec()
EMBEDDINGS = {"bert": ("word_embeddings.weight", "position_embeddings.weight"), "modernbert": ("tok_embeddings.weight",)}
IN_GENERATOR = {"bert": "generator.embeddings.", "modernbert": "generator.embeddings.embeddings."}


def rtd(architecture: str = "bert", **settings) -> ReplacedTokenDetection:
    encoder = text_encoder(architecture, SPEC)
    return ReplacedTokenDetection(encoder, SPEC, **({"generator_width": 0.5} | settings))


def draw_of(batch: dict[str, Tensor]) -> Draw:
    return Draw(0, batch["epoch"], batch["index"])


def always(model: ReplacedTokenDetection, token: int) -> None:
    """Make the generator sample this token at every place."""
    with torch.no_grad():
        model.head.bias_V.fill_(-1e4)
        model.head.bias_V[token] = 1e4


def test_samples_follow_the_softmax():
    logits = torch.tensor([1.0, -2.0, 0.5, 3.0, -1e9, 0.0])
    num = 40_000
    uniform = Draw(0, torch.zeros(num, dtype=torch.long), torch.arange(num)).uniform("sample", 1)
    counts = torch.bincount(pick(logits.expand(num, 1, -1), uniform).flatten(), minlength=6)
    assert counts[4] == 0
    likely = torch.tensor([0, 1, 2, 3, 5])
    expected = logits.double().softmax(0)[likely] * num
    assert stats.chisquare(counts[likely].numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_generator_s_samples_have_the_temperature(temperature, monkeypatch):
    model, batch = rtd(temperature=temperature), text_batch(8000, 16)
    logits = torch.full((SPEC.vocabulary.size,), -1e9)
    logits[10:16] = torch.tensor([1.0, -2.0, 0.5, 3.0, -0.5, 0.0])
    filled = []

    def detect(batch: dict[str, Tensor], filled_BL: Tensor) -> Tensor:
        filled.append(filled_BL)
        return torch.zeros_like(filled_BL, dtype=torch.float32)

    monkeypatch.setattr(model, "generate", lambda batch, seen, noise: logits.expand(*noise.place_BK.shape, -1))
    monkeypatch.setattr(model, "detect", detect)
    noise = model.choose(batch["ids"], draw_of(batch))
    model(batch, draw_of(batch))
    counts = torch.bincount(filled[0].gather(1, noise.place_BK)[noise.used_BK], minlength=len(logits))
    expected = (logits.double() / temperature).softmax(0) * counts.sum()
    assert counts[:10].sum() == counts[16:].sum() == 0
    assert stats.chisquare(counts[10:16].numpy(), expected[10:16].numpy()).pvalue > 1e-3


def test_the_ends_of_the_uniform_range_give_likely_tokens():
    logits = torch.tensor([[-1e9, 0.0, 1.0, -1e9]]).expand(2, -1)
    assert pick(logits, torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 2]


def test_a_sample_that_hits_the_original_is_no_replacement():
    model, batch = rtd(), text_batch(8, 16)
    token = 20
    always(model, token)
    batch["ids"][:4, 1:-1] = token
    report = model(batch, draw_of(batch)).report
    num_noisy = round(0.15 * 14)
    assert report["generator_accuracy"] == pytest.approx(0.5 + (batch["ids"][4:] == token).float().mean().item(), abs=0.1)
    assert report["replaced"] == pytest.approx(4 * num_noisy / (8 * 16), abs=1e-6)


def test_85_percent_of_the_noise_is_masked_and_the_rest_kept():
    model, batch = rtd(), text_batch(4000, 16)
    seen = []
    model.generator.register_forward_pre_hook(lambda _, __, words: seen.append(words["input_ids"]), with_kwargs=True)
    model(batch, draw_of(batch))
    changed = seen[0] != batch["ids"]
    assert (seen[0][changed] == MASK).all()
    num = 4000 * round(0.15 * 14)
    assert abs(changed.sum().item() / num - 0.85) < 4 * (0.85 * 0.15 / num) ** 0.5


def test_weights_of_the_two_losses():
    batch = text_batch(8, 16)
    outcome = rtd()(batch, draw_of(batch))
    expected = outcome.report["generator_loss"] + 50 * outcome.report["detection_loss"]
    torch.testing.assert_close(outcome.loss.detach(), expected)


def gradients(model: ReplacedTokenDetection) -> dict[str, Tensor | None]:
    batch = text_batch(8, 16)
    model.zero_grad()
    model(batch, draw_of(batch)).loss.backward()
    return {name: None if weight.grad is None else weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("architecture", EMBEDDINGS)
@pytest.mark.parametrize("sharing", ["full", "disentangled"])
def test_the_discriminator_never_trains_what_only_the_generator_has(sharing, architecture):
    with_both = gradients(rtd(architecture, sharing=sharing))
    alone = gradients(rtd(architecture, sharing=sharing, weight=0.0))
    for name in with_both:
        if name.startswith(("generator.", "head.")):
            torch.testing.assert_close(with_both[name], alone[name], rtol=1e-5, atol=1e-7)
        elif name.endswith("weight"):
            assert not torch.allclose(with_both[name], alone[name], rtol=1e-5, atol=1e-7), name


@pytest.mark.parametrize("architecture", EMBEDDINGS)
def test_full_sharing_is_one_embedding_layer_trained_by_both(architecture):
    model = rtd(architecture)
    assert model.generator.get_input_embeddings() is model.encoder.net.get_input_embeddings()
    assert not any(name.startswith(IN_GENERATOR[architecture]) for name, _ in model.named_parameters())
    for weight in (0.0, 50.0):
        trained = gradients(rtd(architecture, weight=weight))[f"encoder.net.embeddings.{EMBEDDINGS[architecture][0]}"]
        assert (trained != 0).any()


@pytest.mark.parametrize("architecture", EMBEDDINGS)
def test_disentangled_sharing_equals_a_stopped_embedding_plus_a_difference(architecture):
    """Several SGD steps beside a model that really computes E_discriminator = stop_gradient(E_generator) + delta."""
    ours, theirs = rtd(architecture, sharing="disentangled"), rtd(architecture, sharing="disentangled")
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.05)
    trained = [(name, weight) for name, weight in theirs.named_parameters() if weight.requires_grad]
    weights = {name: weight.detach().clone().requires_grad_() for name, weight in trained}
    deltas = {
        name: torch.zeros_like(weights[f"encoder.net.embeddings.{name}"]).requires_grad_() for name in EMBEDDINGS[architecture]
    }

    def embeddings() -> dict[str, Tensor]:
        return {
            f"encoder.net.embeddings.{name}": weights[f"{IN_GENERATOR[architecture]}{name}"].detach() + delta
            for name, delta in deltas.items()
        }

    for step in range(4):
        batch = text_batch(8, 16, seed=step, epoch=step)
        outcome = ours(batch, draw_of(batch))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        ours.after_step(0.0)

        state = weights | embeddings()
        loss = torch.func.functional_call(theirs, state, (batch, draw_of(batch))).loss
        leaves = {name: weight for name, weight in weights.items() if name not in embeddings()} | deltas
        found = torch.autograd.grad(loss, list(leaves.values()))
        with torch.no_grad():
            for leaf, gradient in zip(leaves.values(), found, strict=True):
                leaf -= 0.05 * gradient
        torch.testing.assert_close(outcome.loss, loss, rtol=1e-4, atol=1e-4)

    state = weights | embeddings()
    for name, weight in ((name, weight) for name, weight in ours.named_parameters() if weight.requires_grad):
        torch.testing.assert_close(weight, state[name], rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert all(delta.abs().max() > 0.01 for delta in deltas.values())


@pytest.mark.parametrize("architecture", EMBEDDINGS)
@pytest.mark.parametrize("sharing", ["full", "disentangled"])
def test_both_networks_have_the_dropout_that_is_asked_for(sharing, architecture):
    """ELECTRA's generator is configured as its discriminator is."""
    batch = text_batch(8, 16)
    for rate in (0.1, 0.0):
        model = ReplacedTokenDetection(text_encoder(architecture, SPEC, dropout=rate), SPEC, sharing=sharing)
        for net in (model.encoder.net, model.generator):
            assert {part.p for part in net.modules() if isinstance(part, nn.Dropout)} == {rate}
        seen, noise = batch["ids"], model.choose(batch["ids"], draw_of(batch))
        layer = model.generator.embeddings
        layer.eval()  # which it may share
        first, second = (model.generate(batch, seen, noise) for _ in range(2))
        assert torch.equal(first, second) == (rate == 0)


@pytest.mark.parametrize("final", [None, 2.0])
def test_weight_decay_leaves_the_difference_alone(final):
    """Without any loss, weight decay shrinks the generator's tables, and the discriminator's follow them."""
    model = rtd(sharing="disentangled")
    recipe = Optimization(torch.optim.AdamW, base_lr=0.1 * 256, weight_decay=1.0, final_weight_decay=final)
    optimizer = recipe.optimizer(model, 1)
    own, theirs = model.encoder.embedding_VD, model.generator.get_input_embeddings().weight
    with torch.no_grad():
        own += 0.01
    before, difference = theirs.detach().clone(), (own - theirs).detach()
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    for step in range(5):
        recipe.move_weight_decay(optimizer.param_groups, step, 5)
        optimizer.step()
        model.after_step(0.0)
    assert theirs.norm() < 0.6 * before.norm()
    torch.testing.assert_close(own - theirs, difference)


def test_disentangled_sharing_survives_a_checkpoint():
    batch = text_batch(8, 16)
    model = rtd(sharing="disentangled")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model(batch, draw_of(batch)).loss.backward()
    optimizer.step()
    again = rtd(sharing="disentangled")
    again.load_state_dict(model.state_dict())
    model.after_step(0.0)
    again.after_step(0.0)
    for mine, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_precision_and_recall():
    found = torch.tensor([[True, True, False, False, True, True]])
    replaced = torch.tensor([[True, False, True, False, True, False]])
    real = torch.tensor([[True, True, True, True, True, False]])
    report = {name: value.item() for name, value in detection_report(found, replaced, real).items()}
    assert report == pytest.approx({"replaced": 3 / 5, "precision": 2 / 3, "recall": 2 / 3})


def test_an_embedding_narrower_than_the_encoder_is_shared_as_it_is():
    encoder = text_encoder("electra", SPEC, settings={"embedding_size": 16})
    model = ReplacedTokenDetection(encoder, SPEC, generator_width=0.5)
    assert model(text_batch(), draw_of(text_batch())).loss.isfinite()


def test_generators_keep_the_depth_and_scale_the_width():
    for architecture, layers in (("bert", "encoder.layer"), ("modernbert", "layers")):
        model = rtd(architecture, generator_width=0.25)
        assert model.generator.config.hidden_size == 8
        assert len(model.generator.get_submodule(layers)) == len(model.encoder.blocks) == 2


def test_a_backbone_without_a_known_generator_is_refused():
    with pytest.raises(BadInput, match="t5.*bert_mini"):
        ReplacedTokenDetection(text_encoder("t5", SPEC), SPEC)
    with pytest.raises(BadInput, match="did you mean disentangled"):
        rtd(sharing="disentangeld")
