"""Text objectives, models and data that do not belong together: one line that names the choices that fit."""

import pytest
from conftest import text_encoder, text_spec
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from conf import choices_of
from datamodules.spec import DataSpec
from datamodules.vocabulary import Vocabulary
from errors import BadInput
from models.bilstm import BiLSTM
from models.word_vectors import WordVectors
from objectives.causal_lm import CausalLanguageModel
from objectives.mlm import MaskedLanguageModel
from objectives.rtd import ReplacedTokenDetection
from objectives.span import SpanBERT
from training.fitting import check_fit, check_needs

CAUSAL = {"gpt_mini", "gpt2", "llama_mini"}
BIDIRECTIONAL = {"bert_mini", "modernbert_base", "t5_mini"}
LABELLED = DataSpec("task", "text", 10, class_names=("a", "b"), block_length=16, vocabulary=text_spec().vocabulary)


def refused(call, *words) -> str:
    with pytest.raises(BadInput) as error:
        call(*words)
    assert "\n" not in str(error.value)
    return str(error.value)


def choices_in(message: str) -> set[str]:
    return set(message.rpartition("fit: ")[2].split(", "))


@pytest.mark.parametrize("objective", ["causal_lm", "prefix_lm"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "t5"])
def test_a_causal_objective_refuses_a_bidirectional_model(objective, architecture):
    names = {"objective": objective, "model": f"{architecture}_mini", "datamodule": "kjv"}
    message = refused(check_needs, names, text_encoder(architecture), text_spec())
    assert f"objective={objective} needs a model with causal attention, which model={architecture}_mini has not" in message
    assert choices_in(message) >= CAUSAL
    assert not choices_in(message) & BIDIRECTIONAL


@pytest.mark.parametrize("objective", ["mlm", "rtd", "span", "span_corruption", "ul2"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "phi"])
def test_a_bidirectional_objective_refuses_a_causal_model(objective, architecture):
    names = {"objective": objective, "model": architecture, "datamodule": "kjv"}
    message = refused(check_needs, names, text_encoder(architecture), text_spec())
    assert "bidirectional attention" in message
    assert choices_in(message) >= BIDIRECTIONAL
    assert not choices_in(message) & CAUSAL


@pytest.mark.parametrize(
    ("objective", "words", "fits"),
    [
        ("skip_gram", "one vector for each token and no attention", {"word_vectors"}),
        ("cbow", "one vector for each token and no attention", {"word_vectors"}),
        ("bidirectional_lm", "one network for each direction", {"bilstm"}),
    ],
)
def test_an_objective_for_another_kind_of_network_refuses_attention(objective, words, fits):
    for model, encoder in (("bert_mini", text_encoder("bert")), ("gpt_mini", text_encoder("gpt2"))):
        names = {"objective": objective, "model": model, "datamodule": "kjv"}
        message = refused(check_needs, names, encoder, text_spec())
        assert f"objective={objective} needs a model with {words}, which model={model} has not" in message
        assert choices_in(message) == fits


def test_networks_without_attention_are_refused_where_it_is_needed():
    for objective in ("mlm", "permutation_lm", "causal_lm", "span_corruption"):
        for model, kind in (("word_vectors", WordVectors), ("bilstm", BiLSTM)):
            names = {"objective": objective, "model": model, "datamodule": "kjv"}
            message = refused(check_needs, names, kind(text_spec(), width=16), text_spec())
            assert not choices_in(message) & {"word_vectors", "bilstm"}
            check_needs({**names, "objective": "supervised_text"}, kind(text_spec(), width=16), LABELLED)


def test_what_belongs_together_is_accepted():
    for objective, model, architecture in (("mlm", "bert_mini", "bert"), ("causal_lm", "llama_mini", "llama")):
        check_needs({"objective": objective, "model": model, "datamodule": "kjv"}, text_encoder(architecture), text_spec())
    for objective, encoder in (("skip_gram", WordVectors(text_spec())), ("bidirectional_lm", BiLSTM(text_spec()))):
        check_needs({"objective": objective, "model": "any", "datamodule": "kjv"}, encoder, text_spec())


def test_a_text_objective_refuses_an_image_model_and_image_data():
    message = refused(check_fit, {"objective": "mlm", "model": "vit_t", "datamodule": "kjv"})
    assert "bert_mini" in message
    assert "vit_t" not in choices_in(message)
    assert "image_folder" in choices_of("datamodule")
    message = refused(check_fit, {"objective": "mlm", "model": "bert_mini", "datamodule": "image_folder"})
    assert "kjv" in choices_in(message)


@pytest.mark.parametrize(
    ("name", "objective"), [("mlm", MaskedLanguageModel), ("rtd", ReplacedTokenDetection), ("span", SpanBERT)]
)
def test_a_masked_objective_refuses_a_tokenizer_without_a_mask_token(name, objective):
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3}, unk_token="a"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    spec = DataSpec("letters", "text", 10, block_length=16, vocabulary=Vocabulary(fast))
    message = refused(objective, text_encoder("bert", spec), spec)
    assert f"objective={name} needs a tokenizer with a mask token" in message
    CausalLanguageModel(text_encoder("gpt2", spec), spec)  # which needs none


def test_a_supervised_objective_needs_labels_of_two_classes():
    spec = text_spec()
    names = {"objective": "supervised_text", "model": "bert_mini", "datamodule": "kjv"}
    assert "needs labels of two classes or more" in refused(check_needs, names, text_encoder("bert"), spec)
