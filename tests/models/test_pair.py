"""A pair as files: what others' libraries read of it, and the same embeddings when it is loaded again."""

import json

import pytest
import timm
import torch
from conftest import text_encoder
from made_pairs import LENGTH, TinyPairs, pair_batch, pair_spec, vocabulary
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

import models
from errors import BadInput
from models.export import save_encoder
from models.pair import Pair, PairHead
from models.timm_encoder import TimmEncoder


def make_pair(spec=None, architecture: str = "gpt2", bias: float | None = None, **settings) -> Pair:
    spec = spec or pair_spec()
    torch.manual_seed(0)
    image = TimmEncoder(spec, "vit_tiny_patch16_224", depth=1, positions="sincos")
    text = text_encoder(architecture, spec)
    head = PairHead.between(image, text, logit_scale=2.5, logit_bias=bias, **settings)
    return Pair(image, text, head).eval()


def save(pair: Pair, folder) -> None:
    for name, part in (("image_encoder", pair.image_encoder), ("text_encoder", pair.text_encoder), ("pair", pair.head)):
        save_encoder(part, folder, name)


@pytest.mark.parametrize(("architecture", "bias"), [("gpt2", None), ("bert", -4.0)])
def test_a_saved_pair_loads_back_with_the_same_embeddings(tmp_path, architecture, bias):
    pair, batch = make_pair(architecture=architecture, bias=bias), pair_batch(5)
    save(pair, tmp_path)
    again = models.load_pair(tmp_path)
    assert not again.training
    with torch.no_grad():
        for found, expected in (
            (again.images(batch["views"][:, 0]), pair.images(batch["views"][:, 0])),
            (again.texts(batch), pair.texts(batch)),
            (again.texts(["ba de, ki", "do"]), pair.texts(["ba de, ki", "do"])),
        ):
            assert torch.equal(found, expected)
            torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))
    assert again.head.text_pool == pair.head.text_pool
    for name in ("logit_scale", "logit_bias"):
        mine, loaded = getattr(pair.head, name), getattr(again.head, name)
        assert loaded is None if mine is None else torch.equal(loaded, mine)


def test_towers_are_files_of_timm_and_transformers(tmp_path):
    pair, batch = make_pair(), pair_batch(3)
    save(pair, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "image_encoder.safetensors", "image_encoder.json", "text_encoder", "text_encoder.json", "pair.safetensors", "pair.json",
    }  # fmt: skip
    recipe = json.loads((tmp_path / "image_encoder.json").read_text())
    image = timm.create_model(recipe["name"], num_classes=0, **recipe["arguments"])
    image.load_state_dict(load_file(tmp_path / "image_encoder.safetensors"))
    text, tokenizer = (auto.from_pretrained(tmp_path / "text_encoder") for auto in (AutoModel, AutoTokenizer))
    assert tokenizer.get_vocab() == pair.text_encoder.vocabulary.tokenizer.get_vocab()
    head = load_file(tmp_path / "pair.safetensors")
    mean, std = (torch.tensor(recipe[name]).view(3, 1, 1) for name in ("mean", "std"))
    views = (batch["views"][:, 0] / 255 - mean) / std
    with torch.no_grad():
        by_hand = image.eval()(views) @ head["image.weight"].T
        torch.testing.assert_close(by_hand / by_hand.norm(dim=1, keepdim=True), pair.images(batch["views"][:, 0]))
        hidden = text.eval()(batch["ids"], attention_mask=batch["present"].long()).last_hidden_state
        by_hand = hidden[range(3), batch["present"].sum(1) - 1] @ head["text.weight"].T
        torch.testing.assert_close(by_hand / by_hand.norm(dim=1, keepdim=True), pair.texts(batch), rtol=1e-4, atol=1e-6)


def test_texts_become_rows_that_end_even_when_they_are_cut(pictures):
    data = TinyPairs(pictures)
    pair = make_pair(data.spec)
    texts = ["a red picture", "very " * 10_000, "blue"]
    rows = pair.rows(texts)
    end = vocabulary().end
    assert end == 0
    lengths = rows["present"].sum(1)
    assert lengths.tolist() == [5, LENGTH, 3]
    assert [row[n - 1].item() for row, n in zip(rows["ids"], lengths, strict=True)] == [end] * 3
    for name, expected in data.rows(texts).items():
        assert torch.equal(rows[name], expected)
    with torch.no_grad():
        alone = torch.cat([pair.texts([text]) for text in texts])
        torch.testing.assert_close(pair.texts(texts), alone, rtol=1e-4, atol=1e-5)


def test_a_folder_that_holds_no_pair(tmp_path):
    save_encoder(make_pair().image_encoder, tmp_path)
    with pytest.raises(BadInput, match="holds no image_encoder.json"):
        models.load_pair(tmp_path)


@pytest.mark.parametrize("name", ["pair.json", "pair.safetensors", "image_encoder.json", "text_encoder/config.json"])
def test_a_damaged_file_is_named(tmp_path, name):
    save(make_pair(), tmp_path)
    (tmp_path / name).write_text("{cut")
    with pytest.raises(BadInput, match=name.partition("/")[0].partition(".")[0]):
        models.load_pair(tmp_path)


def test_weights_of_another_pair_and_newer_formats_are_refused(tmp_path):
    save(make_pair(), tmp_path)
    save_encoder(make_pair(embedding_width=16).head, tmp_path / "", "other")
    (tmp_path / "other.safetensors").replace(tmp_path / "pair.safetensors")
    with pytest.raises(BadInput, match="do not fit the pair: image.weight has shape"):
        models.load_pair(tmp_path)
    recipe = json.loads((tmp_path / "pair.json").read_text())
    (tmp_path / "pair.json").write_text(json.dumps(recipe | {"format": 99}))
    with pytest.raises(BadInput, match="format 99"):
        models.load_pair(tmp_path)


def test_an_end_token_is_needed_where_texts_are_pooled_at_it():
    pair = make_pair()
    pair.text_encoder.vocabulary.tokenizer.sep_token = None
    try:
        with pytest.raises(BadInput, match="no token that ends a text; choices: mean, first"):
            PairHead.between(pair.image_encoder, pair.text_encoder)
    finally:
        pair.text_encoder.vocabulary.tokenizer.sep_token = "[SEP]"
