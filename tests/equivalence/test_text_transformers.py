"""Language objectives against transformers: copied weights, the same corruption; loss and gradients in fp32 to 1e-5."""

import copy

import pytest
import torch
from conftest import jitter, text_batch, text_encoder, text_spec
from torch import Tensor, nn
from transformers import (
    BertForMaskedLM,
    BertForPreTraining,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from objectives.causal_lm import CausalLanguageModel
from objectives.draw import Draw
from objectives.mlm import MaskedLanguageModel
from objectives.objective import Batch, Objective
from objectives.prefix_lm import PrefixLanguageModel
from objectives.rtd import ReplacedTokenDetection
from objectives.span_corruption import SpanCorruption
from objectives.token_noise import Noise, hide

SPEC = text_spec(num_sentinels=8)


def draw_of(batch: Batch) -> Draw:
    return Draw(3, batch["epoch"], batch["index"])


def padded_batch() -> Batch:
    batch = text_batch()
    batch["present"] = torch.arange(16) < torch.tensor([16, 16, 12, 9, 16, 5])[:, None]
    batch["ids"][~batch["present"]] = 0
    return batch


def under(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}{name}": weight for name, weight in module.named_parameters(remove_duplicate=False)}


def transform(prefix: str, head: nn.Module) -> dict[str, Tensor]:
    return under(f"{prefix}dense.", head.dense) | under(f"{prefix}LayerNorm.", head.norm)


def their_loss(theirs: PreTrainedModel, state: dict[str, Tensor], **inputs: Tensor) -> Tensor:
    """With our weights under their names, dropout off."""
    wanted = {name for name, _ in theirs.named_parameters()}
    assert wanted <= set(state), wanted - set(state)
    known = {name for name, _ in theirs.named_parameters(remove_duplicate=False)}
    state = {name: weight for name, weight in state.items() if name in known}
    return torch.func.functional_call(theirs.eval(), state, (), inputs).loss


def assert_same(ours: Objective, mine: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    weights = dict(ours.named_parameters())
    gradients = [torch.autograd.grad(loss, list(weights.values()), allow_unused=True) for loss in (mine, other)]
    for name, a, b in zip(weights, *gradients, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def labels_of(ids: Tensor, noise: Noise) -> Tensor:
    labels = torch.full_like(ids, -100)
    for row, place, used in zip(range(len(ids)), noise.place_BK, noise.used_BK, strict=True):
        labels[row, place[used]] = ids[row, place[used]]
    return labels


def bert_state(ours: MaskedLanguageModel) -> dict[str, Tensor]:
    state = under("bert.", ours.encoder.net) | transform("cls.predictions.transform.", ours.head)
    state["cls.predictions.bias"] = state["cls.predictions.decoder.bias"] = ours.head.bias_V
    return state | {"cls.predictions.decoder.weight": ours.encoder.embedding_VD}


@pytest.mark.parametrize("settings", [{}, {"whole_word": True}, {"faithful": "bert"}, {"faithful": "roberta"}], ids=str)
def test_masked_language_model_equals_bert(settings):
    ours = MaskedLanguageModel(text_encoder("bert", SPEC), SPEC, **settings)
    jitter(ours.head)
    batch = padded_batch() if "faithful" not in settings else text_batch()
    draw = draw_of(batch)
    noise = ours.choose(batch["ids"], draw)
    seen = hide(draw, batch["ids"], noise, ours.tables.mask, ours.random_ids())
    labels = labels_of(batch["ids"], noise)
    state = bert_state(ours)
    present = batch.get("present", torch.ones_like(seen)).long()
    theirs = BertForMaskedLM(copy.deepcopy(ours.encoder.net.config))
    assert_same(ours, ours(batch, draw).loss, their_loss(theirs, state, input_ids=seen, attention_mask=present, labels=labels))


def test_masked_language_model_with_next_sentence_equals_bert():
    ours = MaskedLanguageModel(text_encoder("bert", SPEC), SPEC, next_sentence=True)
    jitter(ours.head)
    jitter(ours.next_sentence)
    batch = padded_batch()
    batch["is_next"] = torch.tensor([1, 0, 0, 1, 0, 0])
    batch["segment"] = ((torch.arange(16) > 3) & batch["present"]).long()
    draw = draw_of(batch)
    noise = ours.choose(batch["ids"], draw)
    seen = hide(draw, batch["ids"], noise, ours.tables.mask, ours.random_ids())
    labels = labels_of(batch["ids"], noise)
    state = bert_state(ours) | under("bert.pooler.dense.", ours.next_sentence.pooler)
    for name, weight in ours.next_sentence.classifier.named_parameters():  # there class 0 is the text that follows
        state[f"cls.seq_relationship.{name}"] = weight.flip(0)
    theirs = BertForPreTraining(copy.deepcopy(ours.encoder.net.config))
    inputs = {"input_ids": seen, "attention_mask": batch["present"].long(), "token_type_ids": batch["segment"]}
    other = their_loss(theirs, state, **inputs, labels=labels, next_sentence_label=1 - batch["is_next"])
    assert_same(ours, ours(batch, draw).loss, other)


def test_replaced_token_detection_equals_both_electras():
    ours = ReplacedTokenDetection(text_encoder("bert", SPEC), SPEC, generator_width=0.5)
    for part in (ours.generator, ours.head, ours.detector):
        jitter(part)
    batch = padded_batch()
    draw = draw_of(batch)
    noise = ours.choose(batch["ids"], draw)
    seen = hide(draw, batch["ids"], noise, ours.tables.mask, ours.tables.ordinary_ids, masked=0.85, random=0.0)
    labels = labels_of(batch["ids"], noise)
    filled = []
    ours.encoder.register_forward_pre_hook(lambda _, inputs: filled.append(inputs[0].ids))
    outcome = ours(batch, draw)
    present = batch["present"].long()

    generator = ours.generator.config
    assert (generator.embedding_size, generator.hidden_size) == (32, 16)
    state = under("electra.", ours.generator) | transform("generator_predictions.", ours.head)
    state |= {"generator_lm_head.weight": ours.encoder.embedding_VD, "generator_lm_head.bias": ours.head.bias_V}
    theirs = ElectraForMaskedLM(copy.deepcopy(generator))
    generator_loss = their_loss(theirs, state, input_ids=seen, attention_mask=present, labels=labels)

    own = ours.encoder.net.config
    discriminator = ElectraConfig(
        vocab_size=own.vocab_size,
        embedding_size=32,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=own.max_position_embeddings,
        pad_token_id=own.pad_token_id,
    )
    state = under("electra.", ours.encoder.net) | under("discriminator_predictions.dense.", ours.detector[0])
    state |= under("discriminator_predictions.dense_prediction.", ours.detector[2])
    theirs, labels = ElectraForPreTraining(discriminator), (filled[0] != batch["ids"]).long()
    assert 0 < labels.sum() <= noise.used_BK.sum()
    detection_loss = their_loss(theirs, state, input_ids=filled[0], attention_mask=present, labels=labels)

    torch.testing.assert_close(outcome.report["generator_loss"], generator_loss.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outcome.report["detection_loss"], detection_loss.detach(), rtol=1e-5, atol=1e-5)
    shared = ours.encoder.net.embeddings.position_embeddings.weight
    for loss in (generator_loss, detection_loss):
        assert torch.autograd.grad(loss, shared, retain_graph=True)[0].abs().sum() > 0
    assert_same(ours, outcome.loss, generator_loss + 50 * detection_loss)


@pytest.mark.parametrize(
    ("architecture", "kind", "prefix"), [("gpt2", GPT2LMHeadModel, "transformer."), ("llama", LlamaForCausalLM, "model.")]
)
def test_causal_language_model_equals_gpt2_and_llama(architecture, kind, prefix):
    ours = CausalLanguageModel(text_encoder(architecture, SPEC), SPEC)
    batch = padded_batch()
    state = under(prefix, ours.encoder.net) | {"lm_head.weight": ours.encoder.embedding_VD}
    config = copy.deepcopy(ours.encoder.net.config)
    config.tie_word_embeddings = True
    labels = batch["ids"].masked_fill(~batch["present"], -100)
    other = their_loss(
        kind(config), state, input_ids=batch["ids"], attention_mask=batch["present"].long(), labels=labels, use_cache=False
    )
    assert_same(ours, ours(batch, draw_of(batch)).loss, other)


@pytest.mark.parametrize("make_batch", [text_batch, padded_batch])
def test_prefix_language_model_equals_gpt2_with_a_mask_made_by_hand(make_batch):
    ours = PrefixLanguageModel(text_encoder("gpt2", SPEC), SPEC)
    batch = make_batch()
    present = batch.get("present", torch.ones(6, 16, dtype=torch.bool))
    draw = draw_of(batch)
    split = torch.tensor(
        [1 + draw.integers("split", length - 1, 1)[row, 0] for row, length in enumerate(present.sum(1).tolist())]
    )
    assert len(split.unique()) > 2
    mask = torch.full((6, 1, 16, 16), torch.finfo(torch.float32).min)
    labels = torch.full_like(batch["ids"], -100)
    for row in range(6):
        for query in range(16):
            for key in range(16):
                if present[row, key] and (key <= query or (query < split[row] and key < split[row])):
                    mask[row, 0, query, key] = 0
            if query >= split[row] and present[row, query]:
                labels[row, query] = batch["ids"][row, query]
    state = under("transformer.", ours.encoder.net) | {"lm_head.weight": ours.encoder.embedding_VD}
    theirs = GPT2LMHeadModel(copy.deepcopy(ours.encoder.net.config))
    other = their_loss(theirs, state, input_ids=batch["ids"], attention_mask=mask, labels=labels, use_cache=False)
    assert_same(ours, ours(batch, draw).loss, other)


@pytest.mark.parametrize("denoisers", [None, [{"noise_ratio": 0.15, "mean_span": 3.0}, {"noise_ratio": 0.5, "mean_span": 8.0}]])
def test_span_corruption_equals_t5(denoisers):
    ours = SpanCorruption(text_encoder("t5", SPEC), SPEC, denoisers)
    jitter(ours.decoder)
    batch = text_batch()
    draw = draw_of(batch)
    inputs, num_inputs, targets, num_targets = ours.corrupt(batch["ids"], draw)
    present = torch.arange(inputs.shape[1]) < num_inputs[:, None]
    labels = targets.masked_fill(torch.arange(targets.shape[1]) >= num_targets[:, None], -100)
    state = {"shared.weight": ours.encoder.embedding_VD, "lm_head.weight": ours.encoder.embedding_VD}
    state |= under("", ours.encoder.net) | under("decoder.", ours.decoder)
    own = ours.encoder.net.config
    config = T5Config(
        vocab_size=own.vocab_size,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        pad_token_id=own.pad_token_id,
        decoder_start_token_id=own.pad_token_id,
        tie_word_embeddings=True,
    )
    theirs = T5ForConditionalGeneration(config)
    other = their_loss(theirs, state, input_ids=inputs, attention_mask=present.long(), labels=labels)
    assert_same(ours, ours(batch, draw).loss, other)
