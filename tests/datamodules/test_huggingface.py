"""Corpora through the library `datasets`, without a network."""

import builtins
import json

import pytest
from made_text import SMALL, texts

from datamodules.huggingface import HuggingFace
from errors import BadInput

datasets = pytest.importorskip("datasets")
DOCUMENTS = texts(30, words=60)


def opened(folder, path, **changes) -> HuggingFace:
    settings = {"tokenizer": SMALL, "block_length": 16, "batch_size": 4, "cache": str(folder / "cache")}
    return HuggingFace(str(path), **(settings | changes))


@pytest.fixture
def saved(tmp_path):
    whole = datasets.Dataset.from_dict({"text": DOCUMENTS, "id": list(range(30))})
    whole.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": whole, "test": whole.select(range(5))}).save_to_disk(tmp_path / "splits")
    (tmp_path / "files").mkdir()
    lines = "\n".join(json.dumps({"text": text}) for text in DOCUMENTS)
    (tmp_path / "files" / "train.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("form", ["one", "splits", "files"])
def test_local_folders_are_read_and_found_again(form, saved):
    first, second = (opened(saved, saved / form) for _ in range(2))
    assert len(first.corpus.survey.splits) == 30
    assert first.corpus.survey.num_bytes.tolist() == [len(text.encode()) for text in DOCUMENTS]
    assert first.splits["train"].stream.folder == second.splits["train"].stream.folder
    assert first.spec.name == "huggingface"


def test_what_is_not_there_is_said_in_one_line(saved, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for path, changes, message in (
        (saved / "one", {"column": "body"}, "has no column 'body'; choices: id, text"),
        (saved / "splits", {"split": "trian"}, r"has no split 'trian'; did you mean train\?"),
        (saved / "files", {"split": "other"}, "split other"),
        ("nobody/nothing", {}, r"'nobody/nothing' \(subset None, split train\) is not there"),
    ):
        with pytest.raises(BadInput, match=message) as error:
            opened(saved, path, **changes)
        assert "\n" not in str(error.value)


def test_without_the_library_the_extra_is_named(saved, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadInput, match=r'pip install "headstart\[text\]"'):
        opened(saved, saved / "one")
