"""Collapse measures on features whose answer is known, and what probing may cost."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import text_encoder, text_spec

from datamodules.text_task import Texts, TextTask
from objectives.causal_lm import CausalLanguageModel
from training.course import Stopwatch
from training.monitors import Monitors, affordable_probes, feature_std, held_out, rankme


def test_isotropic_features_have_full_rank_and_unit_std():
    torch.manual_seed(0)
    features = torch.randn(4000, 16)
    assert feature_std(features) == pytest.approx(1.0, abs=0.02)
    assert rankme(features) == pytest.approx(16, abs=0.2)


def test_collapse_is_seen():
    same = torch.ones(100, 16)
    assert feature_std(same) == pytest.approx(0.0, abs=1e-5)
    assert rankme(same) == pytest.approx(1.0, abs=0.01)
    one_dimension = torch.randn(100, 1) @ torch.randn(1, 16)
    assert rankme(one_dimension) == pytest.approx(1.0, abs=0.01)


def test_rankme_is_the_exponential_of_the_entropy():
    features = torch.diag(torch.tensor([3.0, 1.0]))
    share = torch.tensor([0.75, 0.25])
    assert rankme(features) == pytest.approx(float(torch.exp(-(share * share.log()).sum())), rel=1e-4)


def test_probes_stay_within_their_share_but_one_is_always_left():
    assert affordable_probes(times=4, pictures=1500, share=0.1, run_flops=1e15, picture_flops=1e9) == (4, 1500)
    times, pictures = affordable_probes(times=4, pictures=1500, share=0.1, run_flops=1e13, picture_flops=1e9)
    assert (times, pictures) == (4, 250)
    assert affordable_probes(times=4, pictures=1500, share=0.1, run_flops=1e12, picture_flops=1e10) == (1, 96)
    assert affordable_probes(times=0, pictures=1500, share=0.1, run_flops=1e13, picture_flops=1e9)[0] == 0


def test_what_is_shown_before_the_first_step_is_no_training_time(monkeypatch):
    clock = [0.0]

    def takes(seconds: float, value: object = None) -> object:
        clock[0] += seconds
        return value

    rows = {"index": torch.arange(4), "corrupt": torch.tensor(0)}
    data = SimpleNamespace(evaluation_loader=lambda *_: takes(3.0, [rows]))
    module = SimpleNamespace(
        objective=SimpleNamespace(shown="val"), watch=Stopwatch(lambda: clock[0]), whole=lambda: nullcontext(object())
    )
    monkeypatch.setattr(Monitors, "_show_pictures", lambda *_: takes(4.0))
    monitors = Monitors(data, None, 1, 96)
    module.watch.start()
    monitors.on_train_batch_start(SimpleNamespace(global_step=0), module, rows)
    assert (module.watch.seconds, module.watch.paused) == (0, 7)
    monitors.on_train_batch_start(SimpleNamespace(global_step=1), module, rows)
    assert module.watch.paused == 7


def test_bits_per_byte_of_a_labelled_task_count_the_bytes_of_its_texts():
    splits = {
        split: Texts([("badako! é",), ("mi, ra",), ("rereki",)], np.array([0, 1, 0])) for split in ("train", "val", "test")
    }
    opened = TextTask("syllables", splits, ["a", "b"], text_spec().vocabulary, max_length=16, batch_size=1)
    objective = CausalLanguageModel(text_encoder("gpt2", opened.spec), opened.spec).eval()
    with torch.no_grad():
        nats = sum(float(objective.likelihood(batch).nats) for batch in opened.evaluation_loader("val"))
    size = sum(len(string.encode()) for strings in splits["val"].texts for string in strings)
    assert held_out(objective, opened, 100) == {"val_bits_per_byte": pytest.approx(nats / math.log(2) / size)}
