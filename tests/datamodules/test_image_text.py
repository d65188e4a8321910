"""Pictures with captions: which caption an epoch has, and one tokenizer from training to judging."""

import pickle

import numpy as np
import PIL.Image
import pytest
import torch
from made_shards import SMALL, caption

from datamodules.image_text import Captioned, ImageTextData, _sample, drawn
from datamodules.samples import Pictures
from datamodules.vocabulary import Vocabulary
from errors import BadInput


def grey(index: int) -> PIL.Image.Image:
    if index == 3:
        raise OSError("corrupt")
    return PIL.Image.new("RGB", (8, 8), (index, index, index))


def made(num: int = 40, captions: int = 3, labels: bool = True) -> Captioned:
    pictures = Pictures(grey, num, np.arange(num) % 2 if labels else None)
    return Captioned.listed(pictures, [tuple(caption(i, which) for which in range(captions)) for i in range(num)])


def opened(folder, **changes) -> ImageTextData:
    settings = {"tokenizer": SMALL, "image_size": 8, "batch_size": 8, "cache": str(folder), "class_names": ["even", "odd"]}
    splits = {"train": made(), "val": made(8), "test": made(8)}
    return ImageTextData("made up", **({"splits": splits} | settings | changes))


def test_captions_are_drawn_uniformly_and_independently_for_each_sample_and_epoch():
    num, epochs, choices = 500, 60, 5
    index, epoch = torch.arange(num).repeat(epochs), torch.arange(epochs).repeat_interleave(num)
    chosen = drawn(7, epoch, index, torch.full_like(index, choices)).view(epochs, num)
    n = chosen.numel()
    spread = 4 * (n / choices * (1 - 1 / choices)) ** 0.5
    assert (torch.bincount(chosen.flatten()) - n / choices).abs().max() < spread
    for axis in (0, 1):  # neighbours, in epochs and in samples, do not know of each other
        pairs = chosen * choices + chosen.roll(1, axis)
        counts = torch.bincount(pairs.flatten(), minlength=choices**2)
        assert (counts - n / choices**2).abs().max() < 4 * (n / choices**2) ** 0.5
    assert chosen.unique(dim=0).shape[0] == epochs
    assert not torch.equal(chosen[0], drawn(8, epoch[:num], index[:num], torch.full((num,), choices)))


def test_a_drawn_caption_depends_on_seed_epoch_and_index_alone(tmp_path):
    data = opened(tmp_path)

    def said(**settings) -> dict[tuple[int, int], list[int]]:
        loader = data.train_loader(None, settings.pop("seed", 1), 20, **settings)
        rows = [(batch["epoch"], batch["index"], batch["ids"], batch["present"]) for batch in loader]
        return {(int(e), int(i)): ids[p].tolist() for batch in rows for e, i, ids, p in zip(*batch, strict=True)}

    whole = said()
    assert said(batch_size=5, workers=2) == {key: whole[key] for key in said(batch_size=5)}
    assert said(rank=1, world_size=2).items() < whole.items()
    assert said(first_batch=7).items() < whole.items()
    same = [whole[key] == ids for key, ids in said(seed=2).items() if key in whole]
    assert 0.2 < np.mean(same) < 0.5  # a third by chance
    kinds = {tuple(ids[-2:]) for ids in whole.values()}
    assert len(kinds) == 3  # all captions occur


def test_a_replaced_picture_brings_its_own_caption(tmp_path):
    data = opened(tmp_path)
    decode = data.spec.vocabulary.tokenizer.decode
    for batch in data.train_loader(None, 0, 5):
        for view, ids, index in zip(batch["views"], batch["ids"], batch["index"].tolist(), strict=True):
            number = 4 if index == 3 else index
            assert view.unique().tolist() == [number]
            assert decode(ids, skip_special_tokens=True).startswith(caption(number)[:5])


def test_the_tokenizer_is_that_of_the_training_captions_or_the_given_one(tmp_path):
    data = opened(tmp_path)
    vocabulary = data.spec.vocabulary
    assert vocabulary.size < 200  # few captions, few pieces
    assert {"seen", "shown", "drawn"} <= set(vocabulary.tokenizer.get_vocab())
    vocabulary.tokenizer.save_pretrained(tmp_path / "run")
    other = {"train": made(40, captions=1), "val": made(8), "test": made(8)}
    for given in (vocabulary, {"path": str(tmp_path / "run")}):
        again = opened(tmp_path, splits=other, tokenizer=given)
        assert again.spec.vocabulary.tokenizer.get_vocab() == vocabulary.tokenizer.get_vocab()
        assert torch.equal(again.rows(["a b seen"])["ids"], data.rows(["a b seen"])["ids"])
    changed = opened(tmp_path, splits=other)  # other captions, another tokenizer, though the cache is the same
    assert "drawn" not in changed.spec.vocabulary.tokenizer.get_vocab()
    bare = Vocabulary(vocabulary.tokenizer.__class__(tokenizer_object=vocabulary.tokenizer.backend_tokenizer))
    with pytest.raises(BadInput, match="the tokenizer has no end token"):
        opened(tmp_path, tokenizer=bare)


def test_rows_of_prompts_are_as_hugging_face_makes_them(tmp_path):
    data = opened(tmp_path, max_length=12)
    texts = ["a b c", "", "seen " * 40, "a, b"]
    rows = data.rows(texts)
    assert rows["ids"].shape == (4, 12)
    expected = data.spec.vocabulary.tokenizer(texts, truncation=True, max_length=12, padding="max_length")
    assert rows["ids"].tolist() == expected["input_ids"]
    assert rows["present"].int().tolist() == expected["attention_mask"]
    assert data.rows([])["ids"].shape == (0, 8)
    sent = pickle.loads(pickle.dumps(data.rows))  # as to spawned workers
    assert torch.equal(sent(texts)["ids"], rows["ids"])


def test_unlabelled_pictures_have_no_task(tmp_path):
    splits = {"train": made(labels=False)}
    data = opened(tmp_path, splits=splits, class_names=[])
    assert data.task is None
    assert {split: part.num for split, part in data.splits.items()} == {"train": 32, "val": 4, "test": 4}
    together = [text for split in data.splits for texts in data.captions(split) for text in texts]
    assert sorted(together) == sorted(text for texts in map(made().captions, range(40)) for text in texts)
    again = opened(tmp_path, splits=splits, class_names=[], split_seed=3)
    assert again.captions("test") != data.captions("test")


def test_a_tokenizer_belongs_to_the_captions_that_it_was_trained_on(tmp_path):
    splits = {"train": made(labels=False)}
    parts = [opened(tmp_path, splits=splits, class_names=[], split_seed=seed).splits["train"] for seed in (0, 1, 0)]
    assert parts[0].content == parts[2].content != parts[1].content
    one, two = made(captions=1), made(captions=2)
    assert one.content != two.content
    assert one.subset(np.arange(9)).content != two.subset(np.arange(9)).content


def test_of_many_captions_a_spread_share_trains_the_tokenizer():
    part = made(1000, captions=1)
    few = list(_sample(part, 100 * len(caption(0))))
    assert 95 < len(few) < 130  # they differ a little in length
    numbers = [part.captions.__self__.index((text,)) for text in few]
    assert len(set(numbers)) == len(few)
    assert 400 < np.mean(numbers) < 600
    assert len(list(_sample(part, 10**9))) == 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 41}, "batch_size=41 does not fit: 'made up' has 40 training pairs"),
        ({"batch_size": 0}, "batch_size=0 does not fit"),
        ({"max_length": 7}, "max_length=7 is too short: at least 8 tokens"),
        ({"splits": {"train": made(2)}}, "2 training samples, too few to carve"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        opened(tmp_path, **changes)


def test_evaluation_leaves_corrupt_pictures_out_even_a_whole_batch_of_them(tmp_path):
    data = opened(tmp_path)
    assert torch.cat([batch["index"] for batch in data.evaluation_loader("val")]).tolist() == [0, 1, 2, 4, 5, 6, 7]
    alone = Captioned(Pictures(lambda index: grey(3), 2, np.zeros(2, int)), lambda index: ("a",), "alone")
    batch = next(iter(opened(tmp_path, splits={"train": made(), "val": alone, "test": alone}).evaluation_loader("val")))
    assert len(batch["index"]) == len(batch["ids"]) == len(batch["label"]) == 0
