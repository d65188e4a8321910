"""Two data sets in one batch: exact shares, every sample in turn, the same batches for any ranks, workers and restarts."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from made_shards import SMALL, opened, shards

from datamodules.emoji import Emoji
from datamodules.replay import Replay
from datamodules.spec import DataSpec
from datamodules.text_files import TextFiles
from errors import BadInput
from objectives.views import Crops
from training.pretraining import first_change

BATCH, STEPS = 12, 30


@pytest.fixture(scope="module")
def mixture(tmp_path_factory) -> Replay:
    """20 new and 9 old texts' blocks, of each batch a quarter old."""
    made = []
    for name, num in (("new", 700), ("old", 400)):
        folder = tmp_path_factory.mktemp(name)
        for number in range(25):
            (folder / f"{number}.txt").write_text(" ".join(f"{name} {number} word {i % 13}" for i in range(num // 25)))
        vocabulary = {"tokenizer": SMALL} if not made else {"tokenizer": made[0].vocabulary}
        made.append(TextFiles(f"{folder}/*.txt", block_length=16, batch_size=BATCH, cache=str(folder / "cache"), **vocabulary))
    return Replay(*made, 0.25)


def batches(mixture: Replay, **arguments) -> list[dict[str, torch.Tensor]]:
    return list(mixture.train_loader(None, 0, STEPS, **arguments))


def test_the_share_is_exact_and_every_sample_comes_once_an_epoch_of_its_own(mixture):
    num_new, num_old = mixture.new.spec.num_train, mixture.old.spec.num_train
    seen = Counter()
    for batch in batches(mixture):
        assert (batch["index"] >= num_new).sum() == BATCH // 4
        seen.update(zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True))
    assert set(seen.values()) == {1}
    for numbers, taken in (
        (range(num_new), STEPS * BATCH * 3 // 4),
        (range(num_new, num_new + num_old), STEPS * BATCH // 4),
    ):
        for epoch in range(taken // len(numbers)):
            assert {index for e, index in seen if e == epoch and index in numbers} == set(numbers)
    assert mixture.spec.num_train == round(num_new * 4 / 3)


def test_what_an_index_stands_for_is_that_sample_of_its_data_set(mixture):
    num_new = mixture.new.spec.num_train
    for batch in batches(mixture)[:3]:
        for row, epoch, index in zip(batch["ids"], batch["epoch"].tolist(), batch["index"].tolist(), strict=True):
            data, number = (mixture.new, index) if index < num_new else (mixture.old, index - num_new)
            assert torch.equal(row, data.splits["train"].__getitems__([(epoch, number)])["ids"][0])


def test_ranks_workers_and_restarts_change_nothing(mixture):
    whole = batches(mixture)
    for batch, same in zip(whole, batches(mixture, workers=1), strict=True):
        assert all(torch.equal(batch[name], same[name]) for name in batch)
    for batch, same in zip(whole[7:], batches(mixture, first_batch=7), strict=True):
        assert torch.equal(batch["index"], same["index"])
    ranks = [batches(mixture, rank=rank, world_size=3) for rank in range(3)]
    for step, batch in enumerate(whole):
        parts = torch.cat([rank[step]["index"] for rank in ranks])
        assert sorted(parts.tolist()) == sorted(batch["index"].tolist())
        assert {len(rank[step]["index"]) for rank in ranks} == {BATCH // 3}
    with pytest.raises(BadInput, match="3 replayed and 9 new samples cannot be shared evenly by 2 ranks"):
        batches(mixture, world_size=2)


def test_old_data_that_changed_are_told_by_their_facts():
    def made(num: int) -> SimpleNamespace:
        spec = DataSpec("made up", "image", num, 32, 3, ("a", "b"))
        return SimpleNamespace(spec=spec, modality="image", batch_size=8, task=None)

    then, same, now = (Replay(made(100), made(num), 0.25).spec.facts for num in (50, 50, 51))
    assert first_change(then, same) is None
    assert first_change(then, now) == "replayed training samples: 50 then, 51 now"
    assert first_change(made(100).spec.facts, then) == f"training samples: 100 then, {round(100 * 8 / 6)} now"


def test_a_new_and_an_old_picture_of_the_same_number_are_cropped_otherwise():
    data = Emoji(batch_size=8)
    num, view = data.spec.num_train, Crops(data.spec.image_size)
    batch = Replay(data, data, 0.5).train_loader(view, 0, 1).dataset.__getitems__([(0, 5), (0, num + 5)])
    alone = data.train_loader(view, 0, 1).dataset.__getitems__([(0, 5)])
    assert batch["index"].tolist() == [5, num + 5]
    assert torch.equal(batch["views"][:1], alone["views"])
    assert not torch.equal(batch["views"][0], batch["views"][1])


def test_captions_of_different_lengths_are_filled_up(tmp_path):
    new = opened(tmp_path, shards(tmp_path, [range(9)]))
    (tmp_path / "old").mkdir()
    old = opened(tmp_path / "old", shards(tmp_path / "old", [range(20, 29)]), tokenizer=new.spec.vocabulary)
    narrow = new.train_loader(None, 0, 1, batch_size=4)
    original = old.rows
    old.rows = lambda texts: {
        name: torch.nn.functional.pad(rows, (0, 8), value=new.spec.vocabulary.pad if name == "ids" else 0)
        for name, rows in original(texts).items()
    }
    batch = next(iter(Replay(new, old, 1 / 3).train_loader(None, 0, 1)))
    length = next(iter(narrow))["ids"].shape[1]
    assert batch["ids"].shape == batch["present"].shape == (6, length + 8)
    assert (batch["ids"][:4, length:] == new.spec.vocabulary.pad).all()
    assert not batch["present"][:4, length:].any()
    assert batch["views"].shape[0] == 6


def test_what_cannot_be_mixed_is_refused(mixture):
    with pytest.raises(BadInput, match="'emoji' cannot be replayed into 'text_files': its modality is image, not text"):
        Replay(mixture.new, Emoji(), 0.1)
    with pytest.raises(BadInput, match="replay=0.01 of datamodule.batch_size=12 is 0 samples of a batch"):
        Replay(mixture.new, mixture.old, 0.01)
