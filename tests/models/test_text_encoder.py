"""Text encoders: documents apart, padding without effect, exports that plain transformers reads; every architecture."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import CLS, PAD, ROOT, SEP, jitter, text_batch, text_encoder, text_spec
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForTextEncoding, AutoTokenizer

from datamodules.spec import DataSpec
from errors import BadInput
from models.attention import kernels_used, set_attention
from models.encoder import take
from models.export import build_encoder, load_encoder, save_encoder
from models.text_encoder import TextEncoder

ARCHITECTURES = ("bert", "modernbert", "gpt2", "llama", "t5")
TEXT = "barado, mekiko. dimo aera!"


@pytest.fixture(params=ARCHITECTURES)
def encoder(request) -> TextEncoder:
    # a narrow window, so that ModernBERT's sliding layers matter at 16 tokens
    settings = {"local_attention": 8} if request.param == "modernbert" else {}
    return text_encoder(request.param, settings=settings).eval()


def tokens(encoder: TextEncoder, **batch: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return encoder(encoder.inputs(batch)).tokens


def close(mine: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_document_kept_apart_is_as_if_alone(encoder, kernel):
    set_attention(encoder, kernel)
    ids = text_batch(3)["ids"]
    document = torch.tensor([[0] * 6 + [1] * 7 + [2] * 3, [0] * 16, [0] + [1] * 15])
    apart = tokens(encoder, ids=ids, document=document)
    for row in range(3):
        for number in document[row].unique():
            own = document[row] == number
            close(apart[row, own], tokens(encoder, ids=ids[row, own][None])[0])


@pytest.mark.parametrize("architecture", ["roberta", "mpnet"])
def test_positions_that_count_from_padding_on_are_as_good_as_others(architecture, tmp_path):
    """Both have a row of positions for padding: MPNet number 1, RoBERTa that of the padding token, here 0."""
    encoder, skipped = text_encoder(architecture).eval(), {"roberta": 1, "mpnet": 2}[architecture]
    test_a_document_kept_apart_is_as_if_alone(encoder, "sdpa")
    longest = text_encoder(architecture, text_spec(520)).eval()
    assert (encoder.max_length, longest.max_length) == (512, 520)
    assert torch.isfinite(tokens(longest, ids=text_batch(1, 520)["ids"])).all()
    folder = save_encoder(text_encoder(architecture, settings={"max_position_embeddings": 32}), tmp_path)
    assert TextEncoder(text_spec(32 - skipped), name=str(folder)).max_length == 32 - skipped
    with pytest.raises(BadInput, match=f"rows of 32 tokens do not fit the {32 - skipped} positions"):
        TextEncoder(text_spec(32), name=str(folder))


def test_documents_that_are_not_kept_apart_do_see_each_other(encoder):
    ids = text_batch(1)["ids"]
    changed = ids.clone()
    changed[0, 3] = 40
    assert not torch.allclose(tokens(encoder, ids=ids)[0, 6:], tokens(encoder, ids=changed)[0, 6:], atol=1e-4)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("more", ["nothing", "padding", "documents"])
def test_some_places_are_computed_as_among_all(encoder, kernel, more):
    set_attention(encoder, kernel)
    batch = text_batch(3)
    batch |= {
        "nothing": {},
        "padding": {"present": torch.arange(16) < torch.tensor([[16], [9], [12]])},
        "documents": {"document": (torch.arange(16) > torch.tensor([[4], [8], [11]])).long()},
    }[more]
    inputs, place = encoder.inputs(batch), torch.tensor([[3, 1, 1], [7, 0, 2], [5, 4, 8]])
    weights, weight_BKD = list(encoder.parameters()), torch.randn(3, 3, encoder.width)
    some, all_of_them = encoder.at(inputs, place), take(encoder(inputs).tokens, place)
    close(some, all_of_them)
    grads = [torch.autograd.grad((tokens * weight_BKD).sum(), weights, allow_unused=True) for tokens in (some, all_of_them)]
    for mine, other in zip(*grads, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_the_last_layer_costs_less_at_some_places():
    encoder, place = text_encoder("bert"), torch.tensor([[3, 7]])

    def flops(run) -> int:
        with FlopCounterMode(display=False) as counter:
            run(encoder.inputs(text_batch(1)))
        return counter.get_total_flops()

    width, length, both = 32, 16, flops(encoder)
    spared = 14 * 2 * (2 + 2 * 2) * width**2 + 14 * 2 * 2 * length * width  # query, output, feed-forward; scores and mixing
    assert both - flops(lambda inputs: encoder.at(inputs, place)) == spared


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_padding_changes_nothing(encoder, pool, kernel):
    set_attention(encoder, kernel)
    encoder.pool = pool
    ids = text_batch(2)["ids"]
    present = torch.arange(16) < torch.tensor([[16], [9]])
    inputs = encoder.inputs({"ids": ids.masked_fill(~present, PAD), "present": present})
    with torch.no_grad():
        padded, whole, short = encoder(inputs), *(encoder(encoder.inputs({"ids": row[None]})) for row in (ids[0], ids[1, :9]))
    close(padded.tokens[0], whole.tokens[0])
    close(padded.tokens[1, :9], short.tokens[0])
    close(padded.pooled, torch.cat([whole.pooled, short.pooled]))
    expected = {"mean": short.tokens[0].mean(0), "first": short.tokens[0, 0], "last": short.tokens[0, -1]}
    close(short.pooled[0], expected[pool])


def test_attention_looks_back_only_where_it_is_called_causal(encoder):
    ids = text_batch(1)["ids"]
    changed = ids.clone()
    changed[0, 10] = 40 if ids[0, 10] != 40 else 41
    before = (tokens(encoder, ids=ids) - tokens(encoder, ids=changed))[0, :10].abs().max()
    assert (before < 1e-6) == encoder.causal


@pytest.mark.parametrize(
    ("architecture", "causal", "settings"),
    [
        ("gemma", True, {"head_dim": 16, "num_key_value_heads": 2}),
        ("phi", True, {}),
        ("gpt_neo", True, {"num_layers": 2, "attention_types": [[["global", "local"], 1]]}),
        ("bert", True, {"is_decoder": True}),
        ("bert-generation", False, {}),
        ("distilbert", False, {}),
    ],
)
def test_an_architecture_that_is_not_known_here_is_called_what_it_is(architecture, causal, settings):
    encoder, ids = text_encoder(architecture, settings=settings).eval(), text_batch(1)["ids"]
    assert (encoder.causal, encoder.attention) == (causal, "causal" if causal else "bidirectional")
    test_attention_looks_back_only_where_it_is_called_causal(encoder)
    close(tokens(encoder, ids=ids, document=torch.zeros_like(ids)), tokens(encoder, ids=ids))


def test_a_network_that_cannot_read_tokens_is_refused_in_one_line():
    with pytest.raises(BadInput, match="'mistral' of transformers does not read a row of tokens: The size of") as error:
        text_encoder("mistral", heads=2, settings={"num_key_value_heads": 8})
    assert "\n" not in str(error.value)


def test_kernels_agree(encoder):
    batch, found = text_batch(3), {}
    for kernel in ("eager", "sdpa"):
        set_attention(encoder, kernel)
        assert kernels_used(encoder) == {kernel}
        found[kernel] = tokens(encoder, **batch)
    close(found["eager"], found["sdpa"])
    set_attention(encoder, "flex")
    assert kernels_used(encoder) == {"sdpa" if encoder.net.config.model_type in ("gpt2", "t5") else "flex"}


FLEX = """
import torch
from conftest import text_batch, text_encoder
from torch.nn.attention.flex_attention import create_mask, flex_attention
from transformers.integrations import flex_attention as integration
from models.attention import set_attention
from models.text_encoder import blocks_of, isolated

def attend(query, key, value, training, score_mod, block_mask, enable_gqa, scale, **settings):
    "PyTorch's own, uncompiled; its formula where gradients are asked for, which it does not have on a CPU."
    if not torch.is_grad_enabled():
        named = {"score_mod": score_mod, "block_mask": block_mask, "enable_gqa": enable_gqa, "scale": scale}
        return flex_attention(query, key, value, **named, **settings)
    scores = query @ key.transpose(-2, -1) * scale
    if block_mask is not None:
        mask = create_mask(block_mask.mask_mod, len(scores), 1, *scores.shape[2:], device="cpu")
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(-1) @ value

integration.compile_friendly_flex_attention = attend
place = torch.tensor([[3, 1, 1], [7, 0, 2], [5, 4, 8]])
for more in (
    {},
    {"present": torch.arange(16) < torch.tensor([[16], [9], [12]])},
    {"document": (torch.arange(16) > torch.tensor([[4], [8], [11]])).long()},
):
    for architecture in ("bert", "modernbert", "llama"):
        settings = {"local_attention": 8} if architecture == "modernbert" else {}
        encoder, found = text_encoder(architecture, settings=settings).eval(), []
        for kernel in ("eager", "flex"):
            set_attention(encoder, kernel)
            inputs = encoder.inputs(text_batch(3) | more)
            loss = (encoder.at(inputs, place) ** 2).sum()
            grads = [grad for grad in torch.autograd.grad(loss, list(encoder.parameters()), allow_unused=True)]
            with torch.no_grad():
                hidden = encoder(inputs).tokens
            hidden = hidden if inputs.present is None else hidden * inputs.present.unsqueeze(-1)
            found.append((hidden, encoder.at(inputs, place).detach(), [grad for grad in grads if grad is not None]))
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)

attend_BLL, _ = isolated(torch.arange(512)[None] // 256, causal=False)
mask = blocks_of(attend_BLL)
assert mask.sparsity() == 50.0  # blocks between the two documents are skipped
assert torch.equal(mask.to_dense()[0, 0].repeat_interleave(128, 0).repeat_interleave(128, 1).bool(), attend_BLL[0])
"""


@pytest.mark.long
def test_flex_attention_agrees():
    """In a process of its own: one that made its masks and then gradients cannot fork any more, which other tests do."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", FLEX], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_layers_cover_every_parameter_and_rise_from_the_embedding(encoder):
    layers = encoder.layers()
    assert list(layers.values()) == sorted(layers.values())
    assert set(layers.values()) - {3} == {0, 1, 2}
    owned = {id(weight): i for i, block in enumerate(encoder.blocks, 1) for weight in block.parameters()}
    for name, weight in encoder.named_parameters():
        assert layers[name] == owned.get(id(weight), layers[name])
        assert (id(weight) in owned) == (layers[name] in (1, 2))
    assert layers[next(name for name, weight in encoder.named_parameters() if weight is encoder.embedding_VD)] == 0
    final = [name for name, layer in layers.items() if layer == 3]
    assert all("norm" in name or "ln_f" in name for name in final)
    assert bool(final) == (encoder.net.config.model_type != "bert")
    assert list(layers) == [name for name, _ in encoder.named_parameters()]


def test_dropout_is_off_until_it_is_set(encoder):
    ids = text_batch(2)["ids"]
    plain = tokens(encoder, ids=ids)
    close(tokens(encoder.train(), ids=ids), plain)
    encoder.set_drop_path(0.5)
    assert not torch.allclose(tokens(encoder, ids=ids), plain, atol=1e-2)
    encoder.set_drop_path(0.0)
    close(tokens(encoder, ids=ids), plain)


def test_readouts_are_layers_and_pools_with_the_encoders_own_first(encoder):
    ids = text_batch(2)["ids"]
    present = torch.arange(16) < torch.tensor([[16], [9]])
    inputs = encoder.inputs({"ids": ids, "present": present})
    with torch.no_grad():
        read, features = encoder.readouts(inputs, encoder.readout_names), encoder(inputs)
        for name in encoder.readout_names:
            close(encoder.readouts(inputs, [name])[name], read[name])
    assert encoder.readout_names[0] == "pooled"
    assert tuple(read) == encoder.readout_names
    close(read["pooled"], features.pooled)
    assert len(read) == 1 + 1 + 3 + 2 + 1  # own; the embedding's mean; the first block; the last, less its own; all of them
    means = [read["layer 0 mean"], read["layer 1 mean"], read["pooled"]]
    close(read.pop("all layers"), torch.cat(means, dim=1))
    close(read["layer 2 last"][1], features.tokens[1, 8])
    close(read["layer 2 first"], features.tokens[:, 0])
    assert all(value.shape == (2, 32) for value in read.values())


def test_an_export_is_the_same_encoder_again(encoder, tmp_path):
    batch = text_batch(2)
    save_encoder(encoder, tmp_path)
    again = load_encoder(tmp_path).eval()
    assert torch.equal(tokens(again, **batch), tokens(encoder, **batch))
    assert (again.pool, again.width, again.block_length, again.causal) == ("mean", 32, 16, encoder.causal)
    assert again.pretrained
    assert again.vocabulary.tokenizer(TEXT)["input_ids"] == encoder.vocabulary.tokenizer(TEXT)["input_ids"]
    weights, recipe = encoder.exported()
    recipe = json.loads(json.dumps(recipe))  # plain containers
    close(tokens(build_encoder(recipe, weights).eval(), **batch), tokens(encoder, **batch))


def test_weights_that_the_library_writes_are_not_copied_before(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(type(encoder), "exported", None)
    save_encoder(encoder, tmp_path)
    monkeypatch.undo()
    assert json.loads((tmp_path / "encoder.json").read_text()).items() <= ({"format": 1} | encoder.exported()[1]).items()


def test_an_export_is_a_model_of_plain_transformers(encoder, tmp_path):
    ids = text_batch(2)["ids"]
    folder = save_encoder(encoder, tmp_path)
    assert folder == tmp_path / "encoder"
    plain = AutoModel.from_pretrained(folder).eval()
    plain = plain.encoder if encoder.net.config.model_type == "t5" else plain
    with torch.no_grad():
        close(plain(input_ids=ids).last_hidden_state, tokens(encoder, ids=ids))
    if encoder.net.config.model_type == "t5":
        with torch.no_grad():
            close(
                AutoModelForTextEncoding.from_pretrained(folder).eval()(input_ids=ids).last_hidden_state,
                tokens(encoder, ids=ids),
            )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in (TEXT, (TEXT, "bed")):
        words = text if isinstance(text, tuple) else (text,)
        assert tokenizer(*words)["input_ids"] == encoder.vocabulary.tokenizer(*words)["input_ids"]
    assert tokenizer(TEXT)["input_ids"][0] == CLS
    assert tokenizer(TEXT)["input_ids"][-1] == SEP
    assert tokenizer.mask_token == "[MASK]"
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"], skip_special_tokens=True).replace(" ", "") == TEXT.replace(" ", "")


def test_the_weights_of_a_folder_are_taken_or_only_its_shape(encoder, tmp_path):
    batch, folder = text_batch(2), save_encoder(encoder, tmp_path)
    taken = TextEncoder(text_spec(), name=str(folder), pretrained=True).eval()
    assert torch.equal(tokens(taken, **batch), tokens(encoder, **batch))
    fresh = TextEncoder(text_spec(), name=str(folder)).eval()
    jitter(fresh)
    assert fresh.embedding_VD.shape == encoder.embedding_VD.shape
    assert not torch.allclose(tokens(fresh, **batch), tokens(encoder, **batch), atol=1e-2)


def test_a_second_export_replaces_the_first(tmp_path):
    for seed in (0, 1):
        encoder = text_encoder("bert", seed=seed).eval()
        save_encoder(encoder, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "encoder.json"]
    assert torch.equal(tokens(load_encoder(tmp_path).eval(), **text_batch(1)), tokens(encoder, **text_batch(1)))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_export_with_a_part_missing_or_cut_is_refused(tmp_path, name):
    file = save_encoder(text_encoder("bert"), tmp_path) / name
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BadInput, match="cannot be read"):
        load_encoder(tmp_path)
    file.unlink()
    with pytest.raises(BadInput, match=f"holds no {name}"):
        load_encoder(tmp_path)


def test_segments_are_read_where_an_architecture_has_them(encoder):
    ids = text_batch(1)["ids"]
    segment = (torch.arange(16) >= 8).long()[None]
    same = torch.equal(tokens(encoder, ids=ids, segment=segment), tokens(encoder, ids=ids))
    assert same == (encoder.net.config.model_type != "bert")


def test_an_embedding_smaller_than_the_vocabulary_is_refused(tmp_path):
    folder = save_encoder(text_encoder("bert"), tmp_path)
    larger = text_spec(num_sentinels=8)
    with pytest.raises(BadInput, match="has 90 ids, the embedding of .* only 82; .*datamodule.tokenizer.path=") as error:
        TextEncoder(larger, name=str(folder), pretrained=True)
    assert "\n" not in str(error.value)


def test_rows_longer_than_the_positions_are_refused(tmp_path):
    folder = save_encoder(text_encoder("bert"), tmp_path)
    with pytest.raises(BadInput, match="600 tokens do not fit the 512 positions"):
        TextEncoder(text_spec(block_length=600), name=str(folder))
    assert text_encoder("bert", text_spec(block_length=600)).max_length == 600


def test_what_does_not_exist_is_refused_in_one_line(tmp_path):
    spec: DataSpec = text_spec()
    for settings, words in (
        ({"architecture": "brt"}, "cannot configure 'brt'"),
        ({"architecture": "bert", "pool": "max"}, "there is no model.pool 'max'"),
        ({"architecture": "bert", "width": 30, "heads": 4}, "cannot build 'bert'"),
        ({"name": str(tmp_path / "nothing")}, "cannot be loaded"),
        ({}, "needs model.name="),
    ):
        with pytest.raises(BadInput, match=words) as error:
            TextEncoder(spec, **settings)
        assert "\n" not in str(error.value)
    with pytest.raises(BadInput, match="cannot leave tokens out"):
        text_encoder("bert")(None, keep=torch.zeros(1, 1))
