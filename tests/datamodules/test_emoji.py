"""The embedded emoji: every concept in one split, the variants with their base."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.emoji import Emoji, _names, _plain
from errors import BadInput


def files(data: Emoji, split: str) -> set[str]:
    return {_plain(Path(name).stem) for name in data.splits[split].load.names}


@pytest.fixture(scope="module")
def emoji() -> Emoji:
    return Emoji()


def test_all_concepts_are_there_each_in_one_split(emoji):
    bases = {_plain(entry["unified"]) for entry in _names() if entry["category"] != "Component"}
    assert len(bases) == 1903 - 5
    splits = {split: files(emoji, split) for split in ("train", "val", "test")}
    assert bases <= set.union(*splits.values())
    assert not splits["train"] & splits["test"]
    assert not splits["train"] & splits["val"]
    assert not splits["val"] & splits["test"]
    assert splits["test"] <= bases
    assert len(splits["test"]) == round(0.3 * 1898)


def test_variants_stay_with_their_base(emoji):
    train = files(emoji, "train")
    held_out = files(emoji, "test") | files(emoji, "val")
    variants = 0
    for entry in _names():
        for variant in entry.get("skin_variations", {}).values():
            file = _plain(variant["unified"])
            if file in train:
                variants += 1
                assert _plain(entry["unified"]) in train
            assert file not in held_out
    assert variants > 500
    without = Emoji(skin_tones=False)
    assert files(without, "train") <= train
    assert without.spec.num_train < emoji.spec.num_train - 500


def test_splits_depend_on_their_own_seed_only(emoji):
    assert files(emoji, "test") == files(Emoji(batch_size=8), "test")
    assert files(emoji, "test") != files(Emoji(split_seed=1), "test")


def test_labels(emoji):
    assert emoji.spec.num_classes == 9
    assert set(np.unique(emoji.splits["train"].labels)) == set(range(9))
    assert Emoji(label="subcategory").spec.num_classes > 90


def test_the_home_folder_may_be_written_short(emoji, tmp_path, monkeypatch):
    (tmp_path / "drawings").symlink_to(emoji.splits["train"].load.root)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files(Emoji(root="~/drawings"), "test") == files(emoji, "test")


def test_a_folder_without_emoji_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no emoji pictures"):
        Emoji(root=str(tmp_path))
