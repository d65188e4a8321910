"""The numbers of objectives on text and on image-text that papers give: a default is theirs, or departs as its file says."""

import inspect
import math
from typing import Any

import pytest
from omegaconf import OmegaConf

from conf import CONF, class_of, read_choice
from objectives.clip import InfoNCE
from objectives.mlm import fixed_mask
from objectives.siglip import SigmoidLoss
from objectives.span import MOST_TARGETS, POSITION_WIDTH
from objectives.span_noise import Denoiser, raw_length
from objectives.token_noise import hide
from objectives.word2vec import POWER

DENOISERS_OF_UL2 = [  # Tay et al. 2022, table 1 and section 3.1.2, as (noise ratio, mean span)
    (0.15, 3),  # R
    (0.15, 8),
    (0.5, 3),  # X: half of the text, or long spans
    (0.5, 8),
    (0.15, 64),
    (0.5, 64),
    (0.25, None),  # S: a suffix, uniform in length, a quarter on average
]
WORD2VEC = {  # word2vec.c
    "window": 5,  # -window
    "negatives": 5,  # -negative; Mikolov et al. 2013b, section 2.2: 5 to 20 for small corpora
    "noise_tokens": 64,  # ours: the authors draw five anew for each pair
    "subsample": 1e-3,  # -sample; 2013b, section 2.3: about 1e-5 for a billion words
}
PAPERS = {
    "mlm": {
        "mask_ratio": 0.15,  # Devlin et al. 2019, section 3.1
        "whole_word": False,  # a later addition to the authors' code
        "static_copies": None,  # as Liu et al. 2019, section 4.1; BERT's data had 10 (ibid.)
        "faithful": None,
        "next_sentence": False,  # left out as by Liu et al. 2019, section 4.2
    },
    "rtd": {
        "mask_ratio": 0.15,  # Clark et al. 2020, appendix A (large: 0.25)
        "generator_width": 0.25,  # ibid.: a quarter of ELECTRA-small and large, a third of base
        "weight": 50.0,  # ibid.
        "temperature": 1.0,  # the authors' code
        "masked": 0.85,  # the authors' code, pretrain_helpers.py: 15 % stay as they are
        "sharing": "full",  # section 3.2
    },
    "span": {
        "mask_ratio": 0.15,  # Joshi et al. 2020, section 3.1
        "p": 0.2,  # ibid.
        "longest": 10,  # ibid.
        "boundary": True,  # section 3.2
    },
    "span_corruption": {
        "denoisers": [{"noise_ratio": 0.15, "mean_span": 3}],  # Raffel et al. 2020, sections 3.1.4 and 3.3.4
        "roll": True,  # ours: without it the last token is always noise
    },
    "ul2": {
        "denoisers": [{"noise_ratio": ratio, "mean_span": mean} for ratio, mean in DENOISERS_OF_UL2],
        "roll": True,
    },
    "permutation_lm": {"k": 6},  # Yang et al. 2019, section 2.3 and appendix A.4
    "skip_gram": WORD2VEC,
    "cbow": WORD2VEC,
    "clip": {
        "loss.temperature": 0.07,  # Radford et al. 2021, section 2.5
        "loss.lowest_temperature": 0.01,  # ibid.: logits are scaled by 100 at most
        "patch_dropout": 0.0,
        "lock_image": False,
        "lock_text": False,
    },
    "siglip": {
        "loss.temperature": 0.1,  # Zhai et al. 2023, section 3.2: t' = log 10
        "loss.bias": None,  # ours: log(p / (1 - p)); the paper's -10 is for large batches
        "patch_dropout": 0.0,
        "lock_image": False,
        "lock_text": False,
    },
    "captioning": {
        "parallel_share": 0.75,  # Tschannen et al. 2023, section 3: of CapPa
        "decoder_depth": 6,  # ibid.
    },
    "text_to_image": {"text_weight": 1 / 8},  # Ramesh et al. 2021, section 2.2
    "flamingo": {
        "num_latents": 16,  # ours; Alayrac et al. 2022, section 2.1: 64
        "resampler_depth": 2,  # ours; the paper's is 6
    },
}
WITHOUT_NUMBERS = ("bidirectional_lm", "causal_lm", "prefix_lm")


def at(node: dict[str, Any], name: str) -> Any:
    for key in name.split("."):
        node = node[key]
    return node


@pytest.mark.parametrize("name", PAPERS)
def test_defaults_are_those_of_the_papers(name):
    node = read_choice("objective", name)
    assert {key: at(node, key) for key in PAPERS[name]} == PAPERS[name]


@pytest.mark.parametrize("name", PAPERS)
def test_classes_and_files_have_the_same_defaults(name):
    defaults = {key: word.default for key, word in inspect.signature(class_of("objective", name).__init__).parameters.items()}
    found = {key: defaults[key] for key, value in PAPERS[name].items() if "." not in key and key != "denoisers"}
    assert found == {key: value for key, value in PAPERS[name].items() if key in found}


@pytest.mark.parametrize("name", WITHOUT_NUMBERS)
def test_some_objectives_have_no_numbers(name):
    assert not {key for key in read_choice("objective", name) if not key.startswith("_")}


def test_constants_in_the_code():
    defaults = {key: word.default for key, word in inspect.signature(hide).parameters.items()}
    assert (defaults["masked"], defaults["random"]) == (0.8, 0.1)  # Devlin et al. 2019, section 3.1; the other tenth stays
    assert inspect.signature(fixed_mask).parameters["mask_ratio"].default == 0.15
    assert (POSITION_WIDTH, MOST_TARGETS) == (200, 15)  # SpanBERT's code
    assert POWER == 3 / 4  # Mikolov et al. 2013b, section 2.2


def test_learned_scales_start_and_end_where_the_papers_have_them():
    info_nce = InfoNCE()
    assert info_nce.initial_scale == pytest.approx(math.log(1 / 0.07))  # Radford et al. 2021, section 2.5
    assert info_nce.largest_scale == pytest.approx(math.log(100))
    sigmoid = SigmoidLoss(32_768, bias=-10.0)
    assert (sigmoid.initial_scale, sigmoid.initial_bias) == (pytest.approx(math.log(10)), -10.0)  # Zhai et al., section 3.2
    assert sigmoid.largest_scale is None
    p = 1 / 256
    assert SigmoidLoss(256).initial_bias == pytest.approx(math.log(p / (1 - p)))


def test_span_corruption_has_t5s_lengths():
    """512 tokens of input and 114 of target are 568 raw ones (the authors' code); rows here are a quarter as long."""
    t5 = Denoiser(0.15, 3.0)
    assert (raw_length(t5, 512), t5.lengths(568)) == (568, (512, 114))
    whole = OmegaConf.load(CONF / "objective" / "span_corruption.yaml")
    assert whole.datamodule.block_length == raw_length(t5, 128)
