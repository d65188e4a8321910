"""Blocks: the documents again when laid side by side, whatever the workers, ranks and interruptions."""

import math
import pickle

import numpy as np
import pytest
import torch
from made_text import data, texts

from errors import BadInput

DOCUMENTS = texts(40, words=60)


def stream_of(opened, split: str) -> list[int]:
    """The documents of a split, tokenised one by one by the tokenizer as it is, each with its end token."""
    codes = opened.corpus.survey.splits
    documents = [text for text, code in zip(DOCUMENTS, codes, strict=True) if code == ("train", "val", "test").index(split)]
    tokenizer = opened.vocabulary.tokenizer
    return [i for text in documents for i in [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.sep_token_id]]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("start_token", [True, False])
def test_blocks_side_by_side_are_the_documents(kind, start_token, tmp_path):
    opened = data(DOCUMENTS, tmp_path, {"kind": kind, "vocab_size": 300}, start_token=start_token)
    for split in ("train", "val"):
        expected = stream_of(opened, split)
        ids = torch.cat([batch["ids"] for batch in opened.evaluation_loader(split)])
        assert ids.dtype == torch.int64
        assert ids.shape == (len(expected) // (15 if start_token else 16), 16)
        if start_token:
            assert (ids[:, 0] == opened.vocabulary.start).all()
            ids = ids[:, 1:]
        assert ids.flatten().tolist() == expected[: ids.numel()]
    assert opened.spec.num_train == opened.splits["train"].num


def test_the_spec_says_what_models_need(tmp_path):
    opened = data(DOCUMENTS, tmp_path, num_sentinels=10)
    spec = opened.spec
    assert (spec.modality, spec.block_length, spec.vocabulary.num_sentinels) == ("text", 16, 10)
    assert spec.vocabulary.size == len(spec.vocabulary.tokenizer) + 10
    size = sum(len(text.encode()) for text, code in zip(DOCUMENTS, opened.corpus.survey.splits, strict=True) if code == 1)
    assert math.isclose(spec.bytes_per_token, size / len(stream_of(opened, "val")))
    assert opened.task is None
    assert opened.problems == {}


@pytest.mark.parametrize("start_token", [True, False])
def test_documents_in_a_block_are_told_apart(start_token, tmp_path):
    opened = data(texts(60, words=12), tmp_path, start_token=start_token, isolate_documents=True, block_length=24)
    stream = opened.splits["train"].stream
    offset = int(start_token)
    for batch in opened.evaluation_loader("train"):
        for index, document in zip(batch["index"].tolist(), batch["document"].tolist(), strict=True):
            first = index * (24 - offset)
            expected, number = [], 0
            for position in range(first, first + 24 - offset):
                expected.append(number)
                number += stream.tokens[position] == opened.vocabulary.end
            assert document[offset:] == expected
            assert document[:offset] == [0] * offset
    assert batch["document"].dtype == torch.int64
    assert "document" not in next(iter(data(texts(), tmp_path).evaluation_loader("val")))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 4])
def test_batches_do_not_depend_on_workers(workers, tmp_path):
    opened = data(DOCUMENTS, tmp_path, isolate_documents=True)
    found = list(opened.train_loader(None, seed=3, num_batches=12, workers=workers))
    expected = list(opened.train_loader(None, seed=3, num_batches=12))
    assert set(found[0]) == {"ids", "epoch", "index", "corrupt", "document"}
    for batch, other in zip(found, expected, strict=True):
        assert all(torch.equal(batch[key], other[key]) for key in batch)
        assert int(batch["corrupt"]) == 0
        assert batch["corrupt"].ndim == 0


def test_every_block_once_an_epoch_on_any_number_of_ranks_from_any_batch(tmp_path):
    opened = data(DOCUMENTS, tmp_path)
    num = opened.spec.num_train
    whole = list(opened.train_loader(None, 0, num_batches=-(-num // 4)))
    index = torch.cat([batch["index"] for batch in whole])[:num]
    assert sorted(index.tolist()) == list(range(num))
    later = list(opened.train_loader(None, 0, num_batches=len(whole), first_batch=5))
    assert all(torch.equal(a["ids"], b["ids"]) for a, b in zip(whole[5:], later, strict=True))
    ranks = [list(opened.train_loader(None, 0, num_batches=len(whole), rank=rank, world_size=2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        together = torch.stack((ranks[0][step]["ids"], ranks[1][step]["ids"]), 1).flatten(0, 1)
        assert torch.equal(together, batch["ids"])


def test_a_limit_takes_evenly_spaced_blocks(tmp_path):
    opened = data(DOCUMENTS, tmp_path)
    index = torch.cat([batch["index"] for batch in opened.evaluation_loader("train", limit=5)])
    assert index.tolist() == np.linspace(0, opened.spec.num_train - 1, 5).astype(int).tolist()


def test_blocks_can_be_sent_to_another_process(tmp_path):
    blocks = data(DOCUMENTS, tmp_path, isolate_documents=True).splits["train"]
    expected = blocks.__getitems__([(0, 3), (1, 0)])
    found = pickle.loads(pickle.dumps(blocks)).__getitems__([(0, 3), (1, 0)])
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_tokenizer_without_a_start_token_gives_the_stream_alone(tmp_path):
    data(DOCUMENTS, tmp_path).vocabulary.tokenizer.save_pretrained(tmp_path / "whole")
    text = (
        (tmp_path / "whole" / "tokenizer.json").read_text(encoding="utf-8").replace("[CLS]", "unused").replace("[SEP]", "</s>")
    )
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    opened = data(DOCUMENTS, tmp_path, {"path": str(tmp_path / "tokenizer.json")})
    assert opened.vocabulary.start is None
    batch = next(iter(opened.evaluation_loader("train")))
    assert batch["ids"].flatten()[:40].tolist() == opened.splits["train"].stream.tokens[:40].tolist()


def test_what_is_too_small_is_refused_in_one_line(tmp_path):
    with pytest.raises(
        BadInput, match=r"too short: (\d+) tokens in the split 'val' make.*block_length can be at most (\d+)"
    ) as error:
        data(DOCUMENTS, tmp_path, block_length=4096)
    longest = int(str(error.value).rpartition(" ")[2])
    assert data(DOCUMENTS, tmp_path, block_length=longest).splits["val"].num == 1
    with pytest.raises(BadInput, match="make no block"):
        data(["the whale"], tmp_path)
    with pytest.raises(BadInput, match="batch_size=5000 does not fit: 'made up' has \\d+ training blocks"):
        data(DOCUMENTS, tmp_path, batch_size=5000)
    with pytest.raises(BadInput, match="batch_size=0"):
        data(DOCUMENTS, tmp_path, batch_size=0)
    with pytest.raises(BadInput, match="block_length=7 is too short: at least 8"):
        data(DOCUMENTS, tmp_path, block_length=7)
    with pytest.raises(BadInput, match="holds no text"):
        data([], tmp_path)
