"""Benchmarks on real text and pairs: what is dealt out, looked up and put into tables."""

import zipfile

import numpy as np
import pandas as pd
import pytest
import scipy
import torch
from scipy import stats

from benchmarks import image_text, novels
from errors import BadInput
from reports.result import Result


def test_neighbours_of_words_are_those_of_a_brute_force_search():
    from conftest import PIECES, text_spec

    from benchmarks.word_neighbours import neighbours
    from models.word_vectors import WordVectors

    torch.manual_seed(0)
    encoder = WordVectors(text_spec(), width=16)
    names = encoder.vocabulary.tokenizer.convert_ids_to_tokens(list(range(len(encoder.vocabulary.tokenizer))))
    whole = [i for i in PIECES if names[i].isalpha()]
    vectors = encoder.net.weight.detach().double().numpy()
    word = whole[3]
    cosines = {i: 1 - scipy.spatial.distance.cosine(vectors[word], vectors[i]) for i in whole if i != word}
    expected = sorted(cosines, key=cosines.get, reverse=True)[:5]
    ((found, near),) = neighbours(encoder, [names[word]], 5)
    assert found == names[word]
    assert [name for name, _ in near] == [names[i] for i in expected]
    assert [cosine for _, cosine in near] == pytest.approx([cosines[i] for i in expected], abs=1e-5)


def test_half_of_the_sentences_are_kept_for_the_test(tmp_path):
    with zipfile.ZipFile(tmp_path / "sentences.zip", "w") as archive:
        for task in novels.TASKS:
            for name, numbers in {"train": range(80), "val": range(80, 90), "test": range(89, 100)}.items():
                rows = "".join(f'{i % 2}\t{task} "sentence" {i}\n' for i in numbers)
                archive.writestr(f"{task}/{name}.tsv", "label\ttext\n" + rows)
    with pytest.raises(BadInput, match="no item named 'cr/train.tsv'"):
        novels.sentences_of("cr", tmp_path / "sentences.zip")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "sentences.zip").read_bytes()[:-100])
    with pytest.raises(BadInput, match="cut.zip' cannot be read as a .zip of labelled sentences: File is not a zip file"):
        novels.sentences_of("mr", tmp_path / "cut.zip")
    folder = novels.deal(tmp_path / "sentences.zip", tmp_path / "dealt")
    for task in novels.TASKS:
        splits = {name: pd.read_parquet(folder / task / f"{name}.parquet") for name in ("train", "val", "test")}
        assert {name: len(split) for name, split in splits.items()} == {"train": 40, "val": 10, "test": 50}
        assert {name: (split["label"] == "0").sum() for name, split in splits.items()} == {"train": 20, "val": 5, "test": 25}
        assert {*pd.concat(splits.values())["text"]} == {f'{task} "sentence" {i}' for i in range(100)}


def test_the_table_of_the_novels_takes_differences_within_seeds():
    transfer = {"protocol": "linear", "data": "mr", "checkpoint": "none", "label_fraction": 1.0, "seed": 0}
    accuracy = {
        ("mlm", "bert_mini"): (0.6, 0.7, 0.65),
        ("random", "bert_mini"): (0.55, 0.68, 0.61),
        ("random", "t5_mini"): (0.5,) * 3,
    }
    results = [
        Result("transfer", *names, "text_files", seed, metrics={"accuracy": value}, transfer=transfer)
        for names, values in accuracy.items()
        for seed, value in enumerate(values)
    ]
    spent = {"budget_spent": {"samples": 10}, "metrics": {"last_loss": 5.0}}
    results += [Result("pretrain", "mlm", "bert_mini", "text_files", seed, seconds=60.0, **spent) for seed in range(3)]
    judged, above, cost = novels.tables(results)
    assert judged.loc[("random", "t5_mini"), "mr linear"] == "50.0 [50.0, 50.0] n=3"
    half = stats.t.ppf(0.975, 2) * np.std([5, 2, 4], ddof=1) / 3**0.5
    assert above.index.to_list() == [("mlm", "bert_mini")]
    assert above.iloc[0, 0] == f"{11 / 3:.1f} [{11 / 3 - half:.1f}, {11 / 3 + half:.1f}] n=3"
    assert cost.loc[("mlm", "bert_mini"), "minutes"] == 1


def test_seeds_that_stand_whole_in_the_records_are_not_made_again(tmp_path):
    def transfer(protocol: str, objective: str, model: str, seed: int) -> list[Result]:
        made = {"protocol": protocol, "label_fraction": 1.0}
        return [
            Result("transfer", objective, model, "text_files", seed, transfer=made | {"data": task}) for task in novels.TASKS
        ]

    def made(seed: int) -> list[Result]:
        models = {objective: words[0].removeprefix("model=") for objective, words in novels.OBJECTIVES.items()}
        encoders = [*models.items(), *(("random", model) for model in novels.FIRST_OF_MODEL)]
        judged = [transfer(protocol, *names, seed) for protocol in ("linear", "finetune") for names in encoders]
        trained = [Result("pretrain", *names, "text_files", seed, versions={"torch": "2"}) for names in models.items()]
        return trained + sum(judged, transfer("tfidf", "random", "modernbert_mini", seed))

    path, parts = tmp_path / "novels.jsonl", [*made(3), *made(1)[:-1]]
    assert novels.read_records(path) == []
    novels.write_records(novels.with_recorded(parts[::-1], path), path)
    before = path.read_text()
    assert len(before.splitlines()) == len(parts)
    assert "torch" not in before
    assert "/home/me" not in before
    again = novels.with_recorded(parts[5:9], path)
    novels.write_records(again, path)
    assert path.read_text() == before
    assert [novels.is_whole(seed, again) for seed in (1, 2, 3)] == [False, False, True]
    path.write_text(before[:-20])
    with pytest.raises(BadInput, match="novels.jsonl' cannot be read: "):
        novels.read_records(path)


def test_the_table_beside_open_clip_has_paired_differences():
    ours, theirs = (0.3, 0.4, 0.5), (0.28, 0.35, 0.47)
    rest = dict.fromkeys(image_text.SHOWN, 1.0) | {"parameters": 2e6, "chance_accuracy": 0.25}
    scores = zip(image_text.SIDES, (ours, theirs), strict=True)
    found = {side: [rest | {"accuracy": value} for value in values] for side, values in scores}
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in image_text.table(found).splitlines()]
    assert {len(line) for line in lines} == {len(image_text.SHOWN) + 1}
    half = stats.t.ppf(0.975, 2) * np.std([2, 5, 3], ddof=1) / 3**0.5
    assert [line[0] for line in lines[2:]] == ["ours, 2.0 M", "open_clip, 2.0 M", "difference", "chance"]
    assert [line[-1] for line in lines[2:]] == [
        "40.0 ± 10.0", "36.7 ± 9.6", f"+3.3 [{10 / 3 - half:.1f}, {10 / 3 + half:.1f}]", "25.0",
    ]  # fmt: skip
