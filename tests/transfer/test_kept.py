"""What is read once for a sweep is what each transfer would have read alone, and its record says what that would have cost."""

import copy
import inspect
from collections import Counter
from dataclasses import replace

import pytest
import torch

from conf import choices_of, class_of
from datamodules.text_classification import TextClassification
from models.bilstm import BiLSTM
from models.encoder import ALL_LAYERS
from transfer import kept
from transfer.features import extract
from transfer.finetune import FineTune
from transfer.knn import KNN
from transfer.linear import LinearProbe
from transfer.protocol import Bench
from transfer.source import Source

ABOUT = {"data": "three colours", "device": "cpu"}


@pytest.fixture(autouse=True)
def empty():
    kept.SHELF.clear()
    yield
    kept.SHELF.clear()


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path, 0, {"workers": 0}, "fp32")


def sharing(bench: Bench, about: dict = ABOUT, label_fraction: float = 1.0, seed: int = 0) -> Bench:
    return replace(bench, kept=kept.Kept.of(about, label_fraction, seed))


@pytest.fixture
def reads(monkeypatch) -> Counter:
    """How often each split was read anew."""
    counted = Counter()

    def counting(encoder, data, split, *others, **more):
        counted[split] += 1
        return extract(encoder, data, split, *others, **more)

    monkeypatch.setattr("transfer.protocol.extract", counting)
    return counted


ALL_ONCE = {"train": 1, "val": 1, "test": 1}


def test_protocols_share_what_is_read_and_find_what_they_find_alone(data, vit, bench, reads):
    alone = [protocol(vit, data, bench) for protocol in (KNN(k=5), LinearProbe())]
    reads.clear()
    assert [protocol(vit, data, sharing(bench)) for protocol in (KNN(k=5), LinearProbe())] == alone
    assert reads == ALL_ONCE


def test_of_shares_of_the_labels_the_test_split_is_read_once(data, vit, bench, reads):
    for fraction, seed in ((1.0, 0), (0.5, 0), (0.5, 1), (1.0, 1)):
        part = data.with_label_fraction(fraction, seed)
        found = LinearProbe()(vit, part, sharing(bench, label_fraction=fraction, seed=seed))
        assert found == LinearProbe()(vit, part, bench)
        reads.subtract(("train", "val", "test"))  # of the reading without
    assert reads == {"train": 3, "val": 3, "test": 1}


def test_another_encoder_or_other_data_are_read_anew(data, vit, bench, reads):
    KNN(k=5)(vit, data, sharing(bench))
    KNN(k=5)(vit, data, sharing(bench, ABOUT | {"data": "another"}))
    assert reads == {split: 2 for split in ALL_ONCE}
    with torch.no_grad():
        next(vit.parameters()).view(-1)[0] += 1e-3
    KNN(k=5)(vit, data, sharing(bench, ABOUT | {"data": "another"}))
    assert reads == {split: 3 for split in ALL_ONCE}


def test_readouts_that_were_not_read_are(texts, tmp_path, bench, reads):
    tokenizer = {"kind": "wordpiece", "vocab_size": 200, "lowercase": True}
    data = TextClassification(str(texts / "task"), tokenizer, cache=str(tmp_path))
    torch.manual_seed(0)
    encoder = BiLSTM(data.spec, width=16)
    probe = LinearProbe(strengths=(1.0, 100.0))
    alone = [probe(encoder, data, bench), KNN(k=5)(encoder, data, bench)]
    reads.clear()
    found = [KNN(k=5)(encoder, data, sharing(bench))]
    assert reads == ALL_ONCE
    found.insert(0, probe(encoder, data, sharing(bench)))  # wants each layer
    assert reads == {split: 2 for split in ALL_ONCE}
    assert found == alone
    assert KNN(k=5)(encoder, data, sharing(bench)) == alone[1]  # wants the encoder's own, which the layers came with
    assert reads == {split: 2 for split in ALL_ONCE}
    kept_names = kept.SHELF.readings["test",].vectors[0].keys()
    assert kept_names == set(encoder.readout_names) - {ALL_LAYERS}  # the widest is not even made where nobody asks for it


def test_what_reading_took_is_counted_wherever_it_was_done(data, vit, bench, monkeypatch):
    first, second = sharing(bench), sharing(bench)
    monkeypatch.setattr(kept, "peak_memory_bytes", iter((10, 30, 20)).__next__)
    KNN(k=5)(vit, data, first)
    assert (first.kept.seconds, first.kept.peak_memory_bytes) == (0, 0)
    KNN(k=5)(vit, data, second)
    took = [reading.seconds for reading in kept.SHELF.readings.values()]
    assert second.kept.seconds == pytest.approx(sum(took))
    assert all(seconds > 0 for seconds in took)
    assert second.kept.peak_memory_bytes == 30


def test_what_is_kept_goes_before_the_memory_of_another_transfer_is_counted(data, vit, bench):
    KNN(k=5)(vit, data, sharing(bench))
    kept.Kept.of(dict(ABOUT), 0.1, 1)
    assert kept.SHELF.readings
    kept.Kept.of(ABOUT | {"checkpoint": "another"}, 1.0, 0)
    assert not kept.SHELF.readings


def test_a_protocol_that_does_not_say_that_it_reads_is_given_nothing_of_others(data, vit, bench, reads):
    for _ in range(2):  # of two data sets, for all that is known
        KNN(k=5)(vit, data, sharing(bench, {}))
    assert reads == {split: 2 for split in ALL_ONCE}


def test_who_reads_says_so_and_others_keep_nothing():
    """`finetune` and all others that leave `bench.read` alone need the memory for themselves."""
    for name in choices_of("transfer"):
        cls = class_of("transfer", name)
        assert getattr(cls, "reads", False) == ("bench.read(" in inspect.getsource(cls)), name
    source = Source("none", "random", "vit_t", model_settings={"depth": 2, "_target_": "models"})
    settings = {"seed": 3, "trainer": {"workers": 0}, "datamodule": {"root": "a"}}
    choices = {"datamodule": "image_folder"}
    assert source.read_as(settings, choices, FineTune(torch.optim.AdamW)) == {}
    about = source.read_as(settings, choices, KNN())
    assert about == source.read_as(settings, choices, LinearProbe())
    assert about != source.read_as(settings | {"seed": 4}, choices, KNN())  # other weights
    trained = replace(source, name="run", objective="mae")
    assert trained.read_as(settings, choices, KNN()) == trained.read_as(settings | {"seed": 4}, choices, KNN())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, torch.int64])
def test_weights_of_every_kind_tell_encoders_apart(vit, dtype):
    ones, zeros = (copy.deepcopy(vit) for _ in range(2))
    ones.register_buffer("more", torch.ones((), dtype=dtype))
    zeros.register_buffer("more", torch.zeros((), dtype=dtype))
    assert kept.digest(ones) != kept.digest(zeros)
    assert kept.digest(ones) == kept.digest(copy.deepcopy(ones))
