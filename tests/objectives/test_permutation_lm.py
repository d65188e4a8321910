"""Permutation language modelling: two streams by hand, no leak, the law of the orders, what it costs."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import PIECES, text_batch, text_encoder, text_spec
from torch import Tensor, nn

from errors import BadInput
from models.attention import set_attention
from models.encoder import take
from models.text_encoder import TextEncoder, TextInputs
from objectives.draw import Draw
from objectives.mlm import MaskedLanguageModel
from objectives.permutation_lm import PermutationLanguageModel
from objectives.token_noise import Noise
from training.flops import sample_flops

SPEC = text_spec()
ARCHITECTURES = ("bert", "modernbert")


def objective(architecture: str = "bert", **settings) -> PermutationLanguageModel:
    # a narrow window, so that ModernBERT's sliding layers matter at 16 tokens
    narrow = {"local_attention": 8} if architecture == "modernbert" else {}
    return PermutationLanguageModel(text_encoder(architecture, SPEC, settings=narrow), SPEC, **settings).eval()


def draw_of(batch: dict[str, Tensor]) -> Draw:
    return Draw(0, batch["epoch"], batch["index"])


def attended(layer: nn.Module, query_BD: Tensor, seen_BND: Tensor) -> Tensor:
    """One BERT layer for one position of each row, on what it sees."""
    own = layer.attention.self
    heads = own.num_attention_heads

    def split(vectors: Tensor) -> Tensor:
        return vectors.unflatten(-1, (heads, -1))

    query, key, value = split(own.query(query_BD)), split(own.key(seen_BND)), split(own.value(seen_BND))
    weight = (torch.einsum("bhd,bnhd->bhn", query, key) / query.shape[-1] ** 0.5).softmax(-1)
    mixed = torch.einsum("bhn,bnhd->bhd", weight, value).flatten(1)
    hidden = layer.attention.output.LayerNorm(layer.attention.output.dense(mixed) + query_BD)
    return layer.output.LayerNorm(layer.output.dense(F.gelu(layer.intermediate.dense(hidden))) + hidden)


def two_streams_by_hand(model: PermutationLanguageModel, ids_L: Tensor, orders: Tensor, num_context: int) -> Tensor:
    """(orders, targets, D): for each order the query stream at its targets, in the order; position by position.

    Positions are those of the order: step t of row b is place orders[b, t]. The first `num_context` see each other.
    """
    net, (num, length) = model.encoder.net, orders.shape
    embeddings = net.embeddings

    def embedded(ids: Tensor) -> Tensor:
        vectors = embeddings.word_embeddings(ids) + embeddings.position_embeddings(orders)
        return embeddings.LayerNorm(vectors + embeddings.token_type_embeddings.weight[0])

    content = embedded(ids_L[orders])
    query = embedded(torch.full((num, length), model.tables.mask))
    for layer in net.encoder.layer:
        known = [content[:, : max(t + 1, num_context)] for t in range(length)]
        before = [content[:, :t] if t else query[:, :1] for t in range(length)]
        content, query = (
            torch.stack([attended(layer, stream[:, t], seen[t]) for t in range(length)], dim=1)
            for stream, seen in ((content, known), (query, before))
        )
    return query[:, num_context:]


@pytest.mark.parametrize("num_context", [0, 1, 3, 5])
def test_every_order_of_six_tokens_equals_two_streams_by_hand(num_context):
    model = objective().double()
    set_attention(model, "eager")  # the fused kernel for CPUs misreads masks beside float64
    ids = torch.tensor([7, 30, 11, 60, 7, 45])  # one of them twice
    orders = torch.tensor(list(itertools.permutations(range(6))))
    batch = {"ids": ids.expand(720, 6), "epoch": torch.zeros(720, dtype=torch.long), "index": torch.arange(720)}
    place = orders[:, num_context:]
    targets = Noise.of(place, torch.ones_like(place, dtype=torch.bool))
    found = model.queries(batch, targets, torch.arange(6 - num_context))
    expected = two_streams_by_hand(model, ids, orders, num_context)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weights = dict(model.encoder.named_parameters())
    score = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = [
        torch.autograd.grad((hidden * score).sum(), list(weights.values()), allow_unused=True) for hidden in (found, expected)
    ]
    for name, mine, other in zip(weights, *gradients, strict=True):
        mine, other = (torch.zeros_like(weights[name]) if part is None else part for part in (mine, other))
        if name.endswith("token_type_embeddings.weight"):
            mine, other = mine.sum(0), other.sum(0)
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")

    nats, _, num_targets = model.predict(batch, targets, torch.arange(6 - num_context))
    logits = model.head.transformed(expected) @ model.encoder.embedding_VD.T + model.head.bias_V
    assert num_targets == 720 * (6 - num_context)
    expected_nats = F.cross_entropy(logits.flatten(0, 1), ids[place].flatten(), reduction="sum").float()  # as losses are
    torch.testing.assert_close(nats, expected_nats, rtol=1e-6, atol=0)


@pytest.mark.parametrize("k", [1, 2])  # with 1 the first of an order may see nothing inside a window
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_target_is_seen_by_none_but_what_comes_after_it(architecture, k):
    model, batch = objective(architecture, k=k), text_batch(4)
    targets = model.choose(batch["ids"], draw_of(batch))
    rank = torch.arange(targets.place_BK.shape[1])
    assert targets.used_BK[:, :7].all()
    before = model.queries(batch, targets, rank)
    for place in range(7):
        changed = batch["ids"].clone()
        at = targets.place_BK[:, place, None]
        changed.scatter_(1, at, (changed.gather(1, at) - PIECES.start + 1) % len(PIECES) + PIECES.start)
        moved = (model.queries({**batch, "ids": changed}, targets, rank) - before).abs().amax(-1)
        assert moved[:, : place + 1].max() < 1e-6, "its own query or an earlier one has seen it"
        if architecture == "bert":
            assert (moved[:, place + 1 : 7] > 1e-4).all()
    changed = batch["ids"].clone()
    changed[torch.arange(4), (targets.place_BK[:, 0] + 8) % 16] = 40  # what is near enough to none, or to some
    assert not torch.equal(model.queries({**batch, "ids": changed}, targets, rank), before)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_target_is_a_masked_token_that_nobody_sees(architecture, kernel):
    model, batch = objective(architecture), text_batch(5)
    set_attention(model, kernel)
    place = torch.tensor([[1], [5], [8], [14], [3]])
    found = model.queries(batch, Noise.of(place, torch.ones_like(place, dtype=torch.bool)), torch.arange(1))
    hidden = torch.arange(16) == place
    attend = ~hidden[:, None, :].expand(-1, 16, -1)
    masked = batch["ids"].masked_fill(hidden, model.tables.mask)
    expected = model.encoder(TextInputs(masked, attend=attend)).tokens[hidden]
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_and_other_documents_change_nothing(architecture):
    model, batch = objective(architecture, k=2), text_batch(2)
    ids, present = batch["ids"], torch.arange(16) < torch.tensor([[16], [9]])
    place = torch.tensor([[3, 11, 6], [7, 2, 5]])
    targets, rank = Noise.of(place, torch.ones_like(place, dtype=torch.bool)), torch.arange(3)
    padded = model.queries({**batch, "ids": ids.masked_fill(~present, 0), "present": present}, targets, rank)
    alone = model.queries({"ids": ids[1:, :9]}, Noise.of(place[1:], targets.used_BK[1:]), rank)
    torch.testing.assert_close(padded[1:], alone, rtol=1e-4, atol=1e-5)

    document = torch.tensor([[0] * 5 + [1] * 9 + [2] * 2, [0] * 2 + [1] * 14])
    place = torch.tensor([[7, 14, 15], [1, 0, 5]])  # all of a document is a target: the first of them sees nothing
    apart = model.queries({"ids": ids, "document": document}, Noise.of(place, targets.used_BK), rank)
    for row, number, first, own in ((0, 1, 5, [0]), (0, 2, 14, [1, 2]), (1, 0, 0, [0, 1]), (1, 1, 2, [2])):
        part = ids[row, document[row] == number][None]
        inside = place[row, own][None] - first
        alone = model.queries({"ids": part}, Noise.of(inside, torch.ones_like(inside, dtype=torch.bool)), rank[: len(own)])
        torch.testing.assert_close(apart[row, own], alone[0], rtol=1e-4, atol=1e-5)


def test_a_place_left_over_in_a_row_with_few_targets_is_context():
    model, batch = objective(), text_batch(2)
    place, used = torch.tensor([[3, 11, 6], [7, 2, 5]]), torch.tensor([[True, True, False]] * 2)
    found = model.queries(batch, Noise.of(place, used), torch.arange(3))[:, :2]
    expected = model.queries(batch, Noise.of(place[:, :2], used[:, :2]), torch.arange(2))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    nats, _, num_targets = model.predict(batch, Noise.of(place, used), torch.arange(3))
    assert num_targets == 4
    torch.testing.assert_close(nats, model.predict(batch, Noise.of(place[:, :2], used[:, :2]), torch.arange(2))[0])


def test_orders_are_uniform_and_spare_special_tokens():
    num, length = 6000, 20
    batch = text_batch(num, length)
    targets = objective(k=6).choose(batch["ids"], draw_of(batch))
    assert targets.used_BK.all()
    assert targets.place_BK.shape == (num, 3)  # of 18 ordinary tokens
    assert ((targets.place_BK > 0) & (targets.place_BK < length - 1)).all()
    share = 1 / (length - 2)
    for rank in range(3):
        counts = torch.bincount(targets.place_BK[:, rank], minlength=length)[1:-1]
        assert ((counts / num - share).abs() < 4.5 * (share * (1 - share) / num) ** 0.5).all(), rank
    first, second = targets.place_BK[:, 0], targets.place_BK[:, 1]
    assert abs((first < second).float().mean() - 0.5) < 4 * 0.5 / num**0.5
    later = objective(k=6).choose(batch["ids"], Draw(0, batch["epoch"] + 1, batch["index"]))
    assert (later.place_BK == targets.place_BK).float().mean() < 0.2


def test_a_row_without_ordinary_tokens_adds_nothing():
    model, batch = objective(), text_batch(2)
    batch["ids"][:] = 2
    outcome = model(batch, draw_of(batch))
    assert outcome.loss == 0
    outcome.loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


def test_both_streams_are_counted(monkeypatch):
    batch, spec = text_batch(8, 64), text_spec(64)
    monkeypatch.setattr(TextEncoder, "at", lambda self, inputs, place: take(self(inputs).tokens, place))  # all of one stream
    one, both = (
        sample_flops(kind(text_encoder("bert", spec), spec), batch, 8)
        for kind in (lambda *words: MaskedLanguageModel(*words, mask_ratio=1 / 6), PermutationLanguageModel)
    )
    assert 1.15 < both / one < 1.45  # a sixth more rows, and attention among all of them


def test_what_does_not_fit_is_refused():
    with pytest.raises(BadInput, match="objective.k must be at least 1"):
        objective(k=0.5)
    with pytest.raises(BadInput, match="two tokens at one position, which t5 cannot; .*bert_mini"):
        PermutationLanguageModel(text_encoder("t5", SPEC), SPEC)
