"""Text to image: a language model of transformers with the same weights, drawing, and which runs tokenise."""

import pytest
import torch
import torch.nn.functional as F
from conftest import text_encoder
from made_pairs import pair_batch, pair_spec
from made_runs import write_teacher, write_tokenizer
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from datamodules.spec import DataSpec
from errors import BadInput
from models.export import load_encoder, save_encoder
from objectives.autoencoder import PictureCodes
from objectives.draw import Draw
from objectives.text_samples import TEMPERATURE, pick
from objectives.text_to_image import TextToImage

SPEC = pair_spec()
CODES, TOKENS = 12, 64


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(3)
    return write_tokenizer(tmp_path_factory.mktemp("runs") / "tokenizer", CODES)


def make(run, architecture: str = "gpt2", seed: int = 0, **settings) -> TextToImage:
    encoder = text_encoder(architecture, SPEC, seed)
    return TextToImage(encoder, SPEC, str(run), **settings).eval()


def draw_of(batch) -> Draw:
    return Draw(0, batch["epoch"], batch["index"])


def plain_model(objective: TextToImage) -> GPT2LMHeadModel:
    """With text, codes and the token that begins a picture in one table, in this order."""
    known = objective.encoder.net.config
    config = GPT2Config.from_dict(known.to_dict() | {"vocab_size": known.vocab_size + CODES + 1})
    model = GPT2LMHeadModel(config).eval()
    weights = {name: tensor for name, tensor in objective.encoder.net.state_dict().items() if name != "wte.weight"}
    model.transformer.load_state_dict(weights, strict=False)
    with torch.no_grad():
        table = torch.cat([objective.encoder.embedding_VD, objective.codes_KD, objective.begin_D[None]])
        model.transformer.wte.weight.copy_(table)
    return model


def test_loss_and_gradients_against_a_plain_language_model(run):
    objective, batch = make(run), pair_batch(5)
    plain, vocabulary = plain_model(objective), SPEC.vocabulary.size
    outcome = objective(batch, draw_of(batch))
    outcome.loss.backward()

    codes = objective.tokenizer(batch["views"][:, 0])
    assert codes.shape == (5, TOKENS)
    assert len(codes.unique()) > 3
    nats, num = torch.zeros(2), torch.zeros(2)
    for row, length in enumerate(batch["present"].sum(1).tolist()):  # one sample at a time, nothing padded
        stream = torch.cat([batch["ids"][row, :length], torch.tensor([vocabulary + CODES]), vocabulary + codes[row]])
        places = torch.cat([torch.arange(length), SPEC.block_length + torch.arange(TOKENS + 1)])
        logits = plain(stream[None, :-1], position_ids=places[None, :-1]).logits[0, :, : vocabulary + CODES]
        own = F.cross_entropy(logits, stream[1:].clamp(max=vocabulary + CODES - 1), reduction="none")
        nats = nats + torch.stack([own[: length - 1].sum(), own[length:].sum()])
        num += torch.tensor([length - 1, TOKENS])
    loss = (torch.tensor([1 / 8, 7 / 8]) * nats / num).sum()
    loss.backward()

    torch.testing.assert_close(outcome.loss, loss, rtol=1e-5, atol=1e-5)
    table = plain.transformer.wte.weight.grad.split([vocabulary, CODES, 1])
    ours = objective.encoder.net
    for mine, expected in zip((ours.wte.weight, objective.codes_KD, objective.begin_D[None]), table, strict=True):
        gradient = objective.begin_D.grad[None] if mine.grad is None else mine.grad
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)
    for (name, mine), other in zip(ours.named_parameters(), plain.transformer.parameters(), strict=True):
        if name != "wte.weight":
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-5, msg=name)
    assert all(weight.grad is None for weight in objective.tokenizer.parameters())
    assert all(weight.ndim for weight in objective.parameters())  # FSDP2 shards no scalars
    assert 1 <= outcome.report["codes_used"] <= CODES
    assert outcome.report["feature_std"] > 0.01


def test_the_stream_reads_a_caption_as_the_encoder_alone_does(run):
    objective, batch = make(run), pair_batch(5)
    _, present, hidden = objective.read(batch, objective.tokenizer(batch["views"][:, 0]))
    alone = objective.encoder(objective.encoder.inputs(batch))
    torch.testing.assert_close(hidden[:, :12][batch["present"]], alone.tokens[batch["present"]])
    assert present.shape == (5, SPEC.block_length)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_pictures_are_drawn_token_after_token(run, architecture):
    objective, batch = make(run, architecture), pair_batch(3)
    uniform = draw_of(batch).uniform("picture", TOKENS)
    drawn = objective.generate(batch, uniform)
    codes = torch.zeros(3, 0, dtype=torch.long)
    for place in range(8):  # reading all from the beginning at every step
        filled = F.pad(codes, (0, TOKENS - place))
        hidden = objective.read(batch, filled)[2][:, SPEC.block_length + place]
        codes = torch.cat([codes, pick(hidden @ objective.codes_KD.T / TEMPERATURE, uniform[:, place])[:, None]], dim=1)
    assert torch.equal(drawn[:, :8], codes)
    assert drawn.shape == (3, TOKENS)
    assert len(drawn.unique()) > 3


def test_pairs_are_learned_and_drawn_again(run):
    objective, batch = make(run).train(), pair_batch(3)
    optimizer = torch.optim.Adam([weight for weight in objective.parameters() if weight.requires_grad], lr=5e-3)
    for _ in range(150):
        outcome = objective(batch, draw_of(batch))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
    objective.eval()
    assert outcome.report["accuracy"] > 0.95
    codes = objective.tokenizer(batch["views"][:, 0])
    drawn = objective.generate(batch, torch.full((3, TOKENS), 0.5))
    assert (drawn == codes).float().mean() > 0.9
    likelihood = objective.likelihood(batch)
    assert (likelihood.kind, likelihood.num_targets) == ("code_perplexity", 3 * TOKENS)
    assert (likelihood.nats / likelihood.num_targets).exp() < 1.5
    shown = objective.pictures(batch, draw_of(batch))["generated"]
    assert shown.shape == (3, 3 * 32, 3 * 32)  # rows of picture, tokenised, drawn
    torch.testing.assert_close(shown[:, :32, :32], batch["views"][0, 0] / 255)
    table = objective.texts(batch, draw_of(batch))["captions"].splitlines()
    assert len(table) == 2 + 3


def test_the_tokenizer_is_what_its_run_left_and_stays_so(run):
    objective, batch = make(run), pair_batch(4)
    encoder = load_encoder(run).eval()
    codes = PictureCodes.load(run, encoder)
    before = {name: tensor.clone() for name, tensor in objective.tokenizer.state_dict().items()}
    views: Tensor = batch["views"][:, 0]
    with torch.no_grad():
        ids = codes.codebook.ids(encoder(encoder.normalise(views)))
        assert torch.equal(objective.tokenizer(views), ids)
        assert torch.equal(objective.tokenizer.pictures(ids), codes.decoder(codes.codebook.grid(ids)).clamp(0, 1))
    objective.train()
    objective(batch, draw_of(batch)).loss.backward()
    objective.after_step(0.5)
    assert not objective.tokenizer.fixed.encoder.training
    assert all(torch.equal(before[name], tensor) for name, tensor in objective.tokenizer.state_dict().items())


@pytest.mark.parametrize(
    ("which", "size", "reason"),
    [
        ("supervised", 32, "makes no whole numbers of pictures, .*objective=vector_quantised_autoencoder"),
        ("text", 32, "tokenizer='.*' is a run on text; this objective needs one on pictures"),
        ("tokenizer", 64, "was trained on 32 px, not on 64 px; set datamodule.image_size=32"),
        ("nowhere", 32, "holds no encoder.json"),
    ],
)
def test_runs_that_are_no_tokenizer_are_refused(run, tmp_path, which, size, reason):
    write_teacher(tmp_path / "supervised")
    (tmp_path / "text").mkdir()
    save_encoder(text_encoder("bert"), tmp_path / "text")
    folder = run if which == "tokenizer" else tmp_path / which
    with pytest.raises(BadInput, match=reason):
        TextToImage(text_encoder("gpt2", pair_spec(size)), pair_spec(size), str(folder))


def test_settings_that_cannot_be_are_refused(run):
    with pytest.raises(BadInput, match="text_weight must be between 0 and 1, not 2"):
        make(run, text_weight=2)
    long = DataSpec("long", "image_text", 100, 32, 3, block_length=480, vocabulary=SPEC.vocabulary)
    with pytest.raises(BadInput, match="captions of 480 and pictures of 64 tokens do not fit the 512 positions"):
        TextToImage(text_encoder("gpt2", long), long, str(run))
