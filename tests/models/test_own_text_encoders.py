"""Text encoders that are not of transformers, word vectors and two LSTMs: the contract, padding, and exports."""

import json

import pytest
import torch
from conftest import CLS, PAD, SEP, text_batch, text_spec
from safetensors.torch import load_file

from datamodules.tokenizer import load_tokenizer
from errors import BadInput
from models.bilstm import BiLSTM
from models.encoder import Encoder
from models.export import build_encoder, load_encoder, save_encoder
from models.word_vectors import WordVectors

TEXT = "barado, mekiko. dimo aera!"


@pytest.fixture(params=[WordVectors, BiLSTM])
def encoder(request) -> Encoder:
    torch.manual_seed(0)
    return request.param(text_spec(num_sentinels=3), width=16).eval()


def pooled(encoder: Encoder, **batch: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return encoder(encoder.inputs(batch)).pooled


def test_padding_changes_nothing(encoder):
    ids = text_batch(2)["ids"]
    present = torch.arange(16) < torch.tensor([[16], [9]])
    inputs = encoder.inputs({"ids": ids.masked_fill(~present, PAD), "present": present})
    with torch.no_grad():
        padded, alone = encoder(inputs), encoder(encoder.inputs({"ids": ids[1:, :9]}))
        read = encoder.readouts(inputs, encoder.readout_names)
        read_alone = encoder.readouts(encoder.inputs({"ids": ids[1:, :9]}), encoder.readout_names)
    torch.testing.assert_close(padded.tokens[1, :9], alone.tokens[0])
    torch.testing.assert_close(padded.pooled[1], alone.pooled[0])
    assert tuple(read) == tuple(read_alone) == encoder.readout_names
    for name, value in read.items():
        torch.testing.assert_close(value[1], read_alone[name][0], msg=lambda text, name=name: f"{name}: {text}")
    assert encoder.readout_names[0] == "pooled"
    torch.testing.assert_close(read["pooled"], padded.pooled)
    assert padded.tokens.shape == (2, 16, encoder.width)
    assert padded.prefix.shape == (2, 0, encoder.width)


def test_an_export_is_the_same_encoder_again(encoder, tmp_path):
    batch = {"ids": text_batch(2)["ids"]}
    folder = save_encoder(encoder, tmp_path)
    assert folder == tmp_path / "encoder"
    assert {"model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert load_file(folder / "model.safetensors").keys() == encoder.net.state_dict().keys()
    again = load_encoder(tmp_path).eval()
    assert type(again) is type(encoder)
    assert torch.equal(pooled(again, **batch), pooled(encoder, **batch))
    assert (again.width, again.block_length, again.pretrained, len(again.blocks)) == (16, 16, True, len(encoder.blocks))
    assert again.vocabulary.num_sentinels == 3
    assert again.vocabulary.tokenizer(TEXT)["input_ids"] == encoder.vocabulary.tokenizer(TEXT)["input_ids"]
    weights, recipe = encoder.exported()
    recipe = json.loads(json.dumps(recipe))  # plain containers, as in a checkpoint
    assert torch.equal(pooled(build_encoder(recipe, weights).eval(), **batch), pooled(encoder, **batch))
    assert "tokenizer" not in json.loads((tmp_path / "encoder.json").read_text())  # which is in the folder
    tokenizer = load_tokenizer(str(tmp_path))  # datamodule.tokenizer.path=<the run>
    assert (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id) == (CLS, SEP, PAD)
    save_encoder(again, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "encoder.json"]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_an_export_with_a_part_missing_or_cut_is_refused(encoder, tmp_path, name):
    file = save_encoder(encoder, tmp_path) / name
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BadInput, match="cannot be read"):
        load_encoder(tmp_path)
    file.unlink()
    with pytest.raises(BadInput, match=f"holds no {name}"):
        load_encoder(tmp_path)


def test_layers_rise_from_the_embedding(encoder):
    layers = encoder.layers()
    assert layers.pop(next(name for name, weight in encoder.named_parameters() if weight.shape[0] == 85)) == 0
    owned = {id(weight): i for i, block in enumerate(encoder.blocks, 1) for weight in block.parameters()}
    assert layers == {name: owned[id(weight)] for name, weight in encoder.named_parameters() if id(weight) in owned}


def test_word_vectors_are_averaged_over_words():
    torch.manual_seed(0)
    encoder = WordVectors(text_spec(), width=16)
    table = encoder.net.weight.detach()
    ids = torch.tensor([[CLS, 7, 30, 7, SEP, PAD], [CLS, SEP, PAD, PAD, PAD, PAD]])
    found = pooled(encoder, ids=ids, present=ids != PAD)
    torch.testing.assert_close(found[0], (2 * table[7] + table[30]) / 3)
    assert (found[1] == 0).all()  # no word, no direction, and no NaN


def test_two_lstms_offer_their_layers_and_a_mix():
    torch.manual_seed(0)
    encoder = BiLSTM(text_spec(), width=16, depth=2).eval()
    inputs = encoder.inputs({"ids": text_batch(3)["ids"]})
    with torch.no_grad():
        read, layers = encoder.readouts(inputs, encoder.readout_names), encoder.net(inputs.ids, None)
    means = [layer.mean(1) for layer in layers]
    torch.testing.assert_close(read["pooled"], sum(means) / 3)
    torch.testing.assert_close(read["all layers"], torch.cat(means, dim=1))
    torch.testing.assert_close(read["layer 1 mean"], means[1])
    torch.testing.assert_close(read["layer 2 ends"], torch.cat([layers[2][:, -1, :8], layers[2][:, 0, 8:]], dim=1))
    torch.testing.assert_close(read["layer 0 mean"][:, :8], read["layer 0 mean"][:, 8:])  # the embedding, for both directions


def test_what_does_not_fit_is_refused(encoder):
    with pytest.raises(BadInput, match="cannot leave tokens out"):
        encoder(encoder.inputs(text_batch(1)), keep=torch.zeros(1, 1))
    for settings in ({"width": 15}, {"depth": 0}):
        with pytest.raises(BadInput, match="even model.width and a model.depth of at least 1"):
            BiLSTM(text_spec(), **settings)
    with pytest.raises(BadInput, match="isolate_documents=true needs attention"):
        BiLSTM(text_spec()).inputs({"ids": None, "document": None})
