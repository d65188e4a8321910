"""Shards as training data: every sample exactly once, on any number of ranks and workers, and the rest after a stop."""

import copy
import json
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from made_shards import CLASSES, SMALL, caption, opened, picture, sample, shards, shown, tar

from datamodules.image_shards import ImageShards
from datamodules.order import permutation, permutation_of_shards
from datamodules.shard_index import BROKEN_JSON, CUT, EMPTY_TEXT, WITHOUT_IMAGE, WITHOUT_TEXT
from datamodules.text_shards import TextShards
from errors import BadInput

NUMBERS = [range(0, 7), range(7, 8), range(8, 21), range(21, 24)]  # 24 samples in 4 shards, one of them with a single one


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return opened(folder, shards(folder, NUMBERS, captions=3))


def loaded(data, start: str | None = None, **settings) -> list[dict[str, torch.Tensor]]:
    loader = data.train_loader(None, 5, **settings)
    if start is not None:
        loader.multiprocessing_context = start
    return list(loader)


def check_two_epochs(data, world: int, workers: int, start: str) -> None:
    ranks = [loaded(data, start if workers else None, num_batches=8, workers=workers, rank=rank, world_size=world)
             for rank in range(world)]  # fmt: skip
    assert [len(batches) for batches in ranks] == [8] * world
    whole = loaded(data, num_batches=8)
    seen: dict[int, list[int]] = {0: [], 1: []}
    for step, expected in enumerate(whole):
        parts = [batches[step] for batches in ranks]
        pairs = [pair for part in parts for pair in shown(data, part)]
        assert all(seen_ == said for seen_, said in pairs)  # a caption stays with its picture
        assert sorted(pairs) == sorted(shown(data, expected))  # the same global batch as on one process
        for part in parts:
            for epoch, (number, _) in zip(part["epoch"].tolist(), shown(data, part), strict=True):
                seen[epoch].append(number)
    assert [sorted(numbers) for numbers in seen.values()] == [list(range(24))] * 2
    assert seen[0] != seen[1]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_sample_exactly_once_an_epoch(data, world, workers):
    check_two_epochs(data, world, workers, "fork")


def test_every_sample_exactly_once_in_spawned_workers(data):
    check_two_epochs(data, 1, 1, "spawn")


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_sample_exactly_once_in_spawned_workers_of_several_ranks(data, world, workers):
    check_two_epochs(data, world, workers, "spawn")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_workers_and_go_on_in_mid_epoch(data, workers):
    whole = loaded(data, num_batches=10)
    again = loaded(data, num_batches=10, workers=workers)
    rest = loaded(data, num_batches=10, first_batch=3, workers=workers)
    for batches, expected in ((again, whole), (rest, whole[3:])):
        for batch, other in zip(batches, expected, strict=True):
            assert set(batch) == {"views", "ids", "present", "epoch", "index", "corrupt"}
            assert all(torch.equal(batch[key], other[key]) for key in other)


def test_evaluation_takes_each_picture_once_in_order_with_its_first_caption(data):
    batches = list(data.evaluation_loader("train"))
    assert [pair for batch in batches for pair in shown(data, batch)] == [(number, number) for number in range(24)]
    assert torch.cat([batch["label"] for batch in batches]).tolist() == [number % 3 for number in range(24)]
    assert data.captions("train")[4] == tuple(caption(4, which) for which in range(3))
    first = data.rows([captions[0] for captions in data.captions("train")])
    assert torch.equal(batches[0]["ids"], first["ids"])
    assert torch.equal(batches[0]["present"], first["present"])
    few = list(data.evaluation_loader("train", limit=5, workers=1))
    assert [number for batch in few for number, _ in shown(data, batch)] == [0, 5, 11, 17, 23]


def test_the_spec_and_the_image_task(data):
    spec = data.spec
    assert (spec.name, spec.modality, spec.num_train, spec.image_size, spec.channels) == ("webdataset", "image_text", 24, 8, 3)
    assert spec.class_names == CLASSES
    assert spec.block_length == 32
    assert data.task.spec.modality == "image"
    assert data.task.splits["test"].labels.tolist() == [number % 3 for number in range(246, 252)]
    assert [data.task.splits[name].num for name in ("train", "val")] == [24, 6]
    views = torch.cat([batch["views"] for batch in data.task.evaluation_loader("test")])
    assert torch.equal(views, torch.cat([batch["views"] for batch in data.evaluation_loader("test")]))
    assert data.task.with_label_fraction(0.5, 0).spec.num_train == 12


def test_splits_that_have_no_shards_are_carved_and_held_out_shards_are_reported_on(tmp_path, caplog):
    pattern = shards(tmp_path, [range(40)])
    alone = opened(tmp_path, pattern, val_shards=None, test_shards=None)
    assert {split: part.num for split, part in alone.splits.items()} == {"train": 34, "val": 3, "test": 3}
    numbers = [
        number for split in alone.splits for batch in alone.evaluation_loader(split) for number, _ in shown(alone, batch)
    ]
    assert sorted(numbers) == list(range(40))
    caplog.clear()
    two = opened(tmp_path, pattern, test_shards=None)
    assert {split: part.num for split, part in two.splits.items()} == {"train": 37, "val": 3, "test": 6}
    assert "val_shards are the test split" in caplog.text
    again = opened(tmp_path, pattern, test_shards=None)
    assert two.captions("val") == again.captions("val")
    assert two.captions("val") != opened(tmp_path, pattern, test_shards=None, split_seed=1).captions("val")
    with pytest.raises(BadInput, match=r"train-00\.tar' is in two splits: train and test"):
        opened(tmp_path, pattern, test_shards=pattern)


def test_what_is_incomplete_is_counted_and_left_out(tmp_path, caplog):
    facts = json.dumps({"captions": ["", " \n"], "scene": "river"}).encode()
    files = [
        *sample(1), ("2.json", sample(2)[1][1]), ("3.png", picture(3)), ("4.png", picture(4)), ("4.json", facts),
        ("5.png", picture(5)), ("5.json", b'{"captions": ["cut'), ("6.png", picture(6)), ("6.json", b'{"scene": "river"}'),
        ("7.png", picture(7)), ("7.json", json.dumps({"captions": [7, None, "a b h", ""], "scene": "desert"}).encode()),
        ("8.png", picture(8)), ("8.json", b"[" * 100_000), ("9.png", picture(9)), ("9.json", b"\xef\xbb\xbf" + sample(9)[1][1]),
        *(file for number in range(10, 20) for file in sample(number)),
    ]  # fmt: skip
    tar(tmp_path / "train-00.tar", files)
    data = opened(tmp_path, f"{tmp_path}/train-*.tar")
    expected = {WITHOUT_IMAGE: 1, WITHOUT_TEXT: 2, EMPTY_TEXT: 1, BROKEN_JSON: 2}
    assert data.problems == expected
    for problem, count in expected.items():
        assert f"'webdataset': {count} {problem}" in caplog.text
    assert data.captions("train")[:3] == [(caption(1),), ("a b h",), (caption(9),)]
    assert data.spec.num_train == 13


def test_a_cut_shard_is_named_and_the_others_are_whole(tmp_path, caplog):
    pattern = shards(tmp_path, [range(0, 10), range(10, 20)])
    path = tmp_path / "train-00.tar"
    path.write_bytes(path.read_bytes()[: 6 * 2048 + 530])  # in the seventh picture; members take two blocks of 512 bytes
    data = opened(tmp_path, pattern)
    assert [texts[0] for texts in data.captions("train")] == [caption(number) for number in [*range(6), *range(10, 20)]]
    assert "train-00.tar' is cut off or damaged after 6 usable samples" in caplog.text
    assert data.problems == {CUT: 1}


def test_pictures_that_do_not_decode_are_replaced_with_their_caption_and_never_slept_over(tmp_path, caplog, monkeypatch):
    bomb = bytearray(picture(5))
    bomb[16:24] = struct.pack(">II", 30_000, 30_000)  # a header that promises 900 million pixels
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    broken = {2: picture(2)[:40], 3: b"no picture", 5: bytes(bomb), 6: b"", 8: postscript}
    files = [
        (name, broken.get(number, raw) if name.endswith("png") else raw) for number in range(12) for name, raw in sample(number)
    ]
    tar(tmp_path / "train-00.tar", files)
    data = opened(tmp_path, f"{tmp_path}/train-00.tar", image_size=8)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("slept"))
    batches = loaded(data, num_batches=2)
    pairs = [pair for batch in batches for pair in shown(data, batch)]
    assert all(number == said for number, said in pairs)
    assert sorted(number for number, _ in pairs) == [0, 1, 4, 4, 4, 7, 7, 7, 9, 9, 10, 11]
    assert sum(int(batch["corrupt"]) for batch in batches) == 5
    assert "0003.png in train-00.tar: no picture of a known kind" in caplog.text
    assert "0008.png in train-00.tar: no picture of a known kind" in caplog.text  # nor is another program asked
    assert "0005.png in train-00.tar: too large to be decoded: Image size (900000000 pixels) exceeds" in caplog.text
    evaluated = [pair for batch in data.evaluation_loader("train") for pair in shown(data, batch)]
    assert evaluated == [(number, number) for number in range(12) if number not in broken]


def test_captions_of_any_length(tmp_path):
    long = " ".join(["a b seen"] * 3334)
    texts = {0: long, 1: "a", 2: "\ufeff a\0b", 3: "😀 \u4e2d"}
    files = [
        file
        for number in range(12)
        for file in ((f"{number}.png", picture(number)), (f"{number}.txt", texts.get(number, caption(number)).encode()))
    ]
    tar(tmp_path / "train-00.tar", [*files, ("12.png", picture(12)), ("12.txt", b"\xff\xfe a")])
    data = opened(tmp_path, f"{tmp_path}/train-00.tar", max_length=16)
    assert data.problems == {"NUL characters dropped": 1, "invalid UTF-8 sequences replaced": 2}
    batch = next(iter(data.evaluation_loader("train")))
    end = data.spec.vocabulary.end
    assert batch["ids"].shape == (13, 16)
    assert batch["ids"][0, -1] == end
    assert batch["present"][0].all()
    for row, present in zip(batch["ids"], batch["present"], strict=True):
        assert row[present][0] == data.spec.vocabulary.start
        assert row[present][-1] == end
        assert (row == end).sum() == 1
    fixed = opened(tmp_path, f"{tmp_path}/train-00.tar", max_length=24, fixed_length=True)
    assert {tuple(batch["ids"].shape) for batch in loaded(fixed, num_batches=5)} == {(6, 24)}


def test_a_shard_that_changes_while_it_is_used_is_named(tmp_path, caplog):
    data = opened(tmp_path, shards(tmp_path, [range(12)]))
    path = tmp_path / "train-00.tar"
    path.write_bytes(path.read_bytes()[:600])  # the first picture is all that is left
    with pytest.raises(BadInput, match=r"train-00\.tar' changed while it was in use: the shard has become shorter"):
        loaded(data, num_batches=2)
    path.write_bytes(b"")
    with pytest.raises(BadInput, match="12 pictures in a row cannot be read"):
        loaded(data, num_batches=1)
    assert "the shard has become shorter" in caplog.text


def test_large_collections_are_read_shard_by_shard(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.order.WINDOW", 16)
    pattern = shards(tmp_path, [range(9 * i, 9 * i + 9) for i in range(4)])
    data = opened(tmp_path, pattern, val_shards=None, test_shards=None)
    pictures = data.splits["train"].pictures
    assert pictures.shard.tolist() == (pictures.load.load.indices[pictures.load.indices] // 9).tolist()
    expected = permutation_of_shards(5, 0, pictures.shard).tolist()
    assert expected != permutation(5, 0, pictures.num).tolist()
    for part in (data, data.task):
        seen = [index for batch in part.train_loader(None, 5, num_batches=5) for index in batch["index"].tolist()]
        assert seen == expected[:30]


def test_many_shards_are_open_a_few_at_a_time_and_none_travels_to_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.shards.OPEN_FILES", 3)
    data = opened(tmp_path, shards(tmp_path, [range(2 * i, 2 * i + 2) for i in range(12)]))
    members = data.splits["train"].captions.members
    assert len(loaded(data, num_batches=8)) == 8
    assert len(members.opened) == 3
    assert not pickle.loads(pickle.dumps(members)).opened
    assert len(copy.copy(members.opened)) == 3


@pytest.mark.parametrize("written", ["names", "numbers", "file"])
def test_classes(tmp_path, written):
    names = tmp_path / "classes.txt"
    names.write_text("river\n\ndesert\nforest\n")
    of = {"names": lambda i: CLASSES[i % 3], "numbers": lambda i: f"{i % 11}\n", "file": lambda i: str(i % 3)}[written]
    files = [file for i in range(36) for file in ((f"{i}.png", picture(i)), (f"{i}.cls", of(i).encode()))]
    tar(tmp_path / "train-00.tar", files)
    data = ImageShards(
        f"{tmp_path}/train-00.tar", classes=str(names) if written == "file" else None, batch_size=4, cache=str(tmp_path)
    )
    expected = {"names": CLASSES, "numbers": tuple(map(str, range(11))), "file": ("river", "desert", "forest")}[written]
    assert data.spec.class_names == expected
    assert (data.spec.name, data.modality, data.spec.image_size) == ("image_shards", "image", 8)
    for split in data.splits:
        for batch in data.evaluation_loader(split):
            red, green = batch["views"][:, 0, :2, 0, 0].long().unbind(1)
            for number, label in zip((red // 16 + green).tolist(), batch["label"].tolist(), strict=True):
                assert expected[label] == (of(number).strip() if written != "file" else expected[number % 3])


def test_labels_that_are_missing_strange_or_named_twice(tmp_path, caplog):
    files = [file for i in range(12) for file in sample(i)]
    tar(tmp_path / "train-00.tar", [*files, ("99.png", picture(99)), ("99.json", b'{"captions": ["a"]}')])
    data = opened(tmp_path, f"{tmp_path}/train-00.tar")
    assert "1 samples have no label" in caplog.text
    assert data.task is None
    assert set(next(iter(data.evaluation_loader("test")))["label"].tolist()) == {-1}
    assert opened(tmp_path, f"{tmp_path}/train-00.tar", label=None).task is None
    tar(tmp_path / "other-00.tar", [("1.png", picture(1)), ("1.cls", b"ocean")])
    tar(tmp_path / "train-00.tar", files)
    with pytest.raises(BadInput, match="class 'ocean' in 'image_shards' has no training pictures"):
        ImageShards(f"{tmp_path}/train-00.tar", f"{tmp_path}/other-00.tar", batch_size=2, cache=str(tmp_path / "cache"))
    path = tmp_path / "classes.txt"
    for text, message in (
        ("river\nforest\nriver\n", "names the class 'river' twice"),
        ("\n", "holds no class names"),
        ("river\nforest\n", "label 'desert' in 'webdataset' is not in .*choices: forest, river"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=message):
            opened(tmp_path, f"{tmp_path}/train-00.tar", classes=str(path))
    with pytest.raises(BadInput, match="cannot be read"):
        opened(tmp_path, f"{tmp_path}/train-00.tar", classes="nowhere.txt")


def test_keys_can_be_chosen(tmp_path):
    files = []
    for i in range(14):
        facts = {"meta": {"alt": caption(i)}, "captions": "another", "kind": i % 2}
        files += [(f"a/{i}.seg.png", picture(200)), (f"a/{i}.webp", picture(i, kind="PNG")),
                  (f"a/{i}.meta.json", json.dumps(facts).encode())]  # fmt: skip
    tar(tmp_path / "train-00.tar", files)
    chosen = {"image": "webp", "caption": "meta.json.meta.alt", "label": ["cls", "meta.json.kind"]}
    data = opened(tmp_path, f"{tmp_path}/train-00.tar", **chosen, val_shards=None, test_shards=None, val_fraction=0.2)
    assert data.spec.class_names == ("0", "1")
    pairs = [pair for batch in data.evaluation_loader("train") for pair in shown(data, batch)]
    assert pairs
    assert all(number == said for number, said in pairs)


def test_text_in_shards_is_a_corpus(tmp_path):
    documents = [f"number {i}\n" + " ".join(["whale", "ship"] * 40) for i in range(40)]
    tar(tmp_path / "train-00.tar", [(f"{i}.txt", text.encode()) for i, text in enumerate(documents[:25])])
    rows = [(f"{i}.json", json.dumps({"text": text}).encode()) for i, text in enumerate(documents[25:])]
    tar(tmp_path / "train-01.tar", [*rows, ("x.json", b'{"text": "  "}'), ("y.json", b"{}")])
    settings = {"tokenizer": SMALL, "block_length": 16, "batch_size": 4, "cache": str(tmp_path / "cache")}
    data = TextShards(f"{tmp_path}/train-*.tar", **settings, val_fraction=0.1)
    assert (data.modality, data.spec.name) == ("text", "text_shards")
    streams = {split: blocks.stream for split, blocks in data.splits.items()}
    assert {split: len(stream.document_ends) for split, stream in streams.items()} == {"train": 36, "val": 4}
    decoded = data.vocabulary.tokenizer.decode(np.concatenate([stream.tokens for stream in streams.values()]))
    assert all(f"number {i} whale" in decoded for i in range(40))
    tar(tmp_path / "val-00.tar", [(f"{i}.txt", b"the sea " * 30) for i in range(3)])
    tar(tmp_path / "test-00.tar", [(f"{i}.txt", b"the sea " * 30) for i in range(2)])
    held_out = {f"{split}_shards": f"{tmp_path}/{split}-*.tar" for split in ("val", "test")}
    given = TextShards(f"{tmp_path}/train-*.tar", **held_out, **settings)
    found = {split: len(blocks.stream.document_ends) for split, blocks in given.splits.items()}
    assert found == {"train": 40, "val": 3, "test": 2}


def test_a_tokenizer_trained_in_the_parent_cuts_new_words_in_forked_workers(tmp_path):
    """The tokenizer's own threads do not survive a fork: without care a worker waits forever for them."""
    data = opened(tmp_path, shards(tmp_path, [range(48)]))
    data.rows([f"{zlib.crc32(bytes([i]))} new" for i in range(256)])  # a batch that uses them, in the parent
    loader = data.train_loader(None, 0, num_batches=8, workers=1)
    loader.timeout = 60
    assert len(list(loader)) == 8
