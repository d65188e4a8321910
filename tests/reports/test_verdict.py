"""The sentences below the table, and the command that prints them."""

import re
from dataclasses import replace

import numpy as np
from conftest import ROOT
from records import drawn, record
from scipy import stats

from reports.figure import looks_of
from reports.ranks import rank_figure
from reports.statistics import ALPHA, compare_pairs, largest_spread, seeds_needed
from reports.verdict import pareto_lines, plan, summary, verdict, verdicts


def test_who_is_ahead_and_who_cannot_be_told_apart():
    results = drawn(np.random.default_rng(0), {"mae": 0.7, "simclr": 0.7, "random": 0.3}, 5)
    (line,) = verdicts(results)
    spread = largest_spread(compare_pairs(results))
    assert line.startswith("knn on task0: ")
    assert "has the highest mean, not distinguishable from" in line
    assert "ahead of random" in line
    assert f"3 points take {seeds_needed(0.03, spread, num_pairs=3)} seeds" in line
    (line,) = verdicts(drawn(np.random.default_rng(0), {"mae": 0.7, "random": 0.3}, 5))
    assert "mae is ahead of random (p < 0.05" in line


def test_one_seed_names_nobody():
    (line,) = verdicts([record("mae", 0, 0.9), record("random", 0, 0.1)])
    assert line == "knn on emoji: no difference can be told; one seed shows no spread"
    (line,) = verdicts([record("mae", seed, 0.9) for seed in range(3)] + [record("random", 0, 0.1)])
    assert "no two rows share two seeds" in line
    assert verdicts([record("mae", 0, 0.9), record("mlm", 0, 0.1, model="bert_mini", task="kjv")]) == []


def test_all_tests_of_a_model_are_summed_up():
    lines = verdicts(drawn(np.random.default_rng(0), {"mae": 0.7, "random": 0.3}, 3, num_tasks=3))
    assert len(lines) == 4
    assert lines[-1].startswith("mean of these 3 tests, knn on task0, knn on task1, knn on task2: mae is ahead of random")


def test_models_are_rows_of_their_own_and_texts_are_no_pictures():
    rng = np.random.default_rng(0)
    results = drawn(rng, {"mae": 0.7, "random": 0.3}, 3, num_tasks=2)
    results += [replace(result, model="vit_s") for result in drawn(rng, {"simclr": 0.5}, 3, num_tasks=2)]
    texts = drawn(rng, {"mlm": 0.7, "random": 0.3}, 3, num_tasks=2)
    for result in texts:
        result.transfer["data"] = "text_" + result.transfer["data"]
    results += [replace(result, model="bert_mini") for result in texts]
    lines = verdicts(results)
    assert len(lines) == 2 + 2 + 2
    assert lines[0].startswith("knn on task0: mae vit_t is ahead of simclr vit_s, random vit_t")
    assert lines[2].startswith("knn on text_task0: mlm is ahead of random")
    assert lines[4].startswith("mean of these 2 tests, knn on task0, knn on task1: mae vit_t is ahead")
    assert lines[5].startswith("mean of these 2 tests, knn on text_task0, knn on text_task1: mlm is ahead")


def test_who_saw_all_labels_is_said_to_have_where_others_get_a_share():
    rng = np.random.default_rng(0)
    results = drawn(rng, {"mae": 0.6, "supervised": 0.8, "random": 0.3}, 5)
    for result in results:
        result.transfer["data"] = "emoji"
    results = [replace(result, data="emoji") for result in results]
    few = [replace(result, transfer=result.transfer | {"label_fraction": 0.01}) for result in results]
    assert verdict(results).startswith("supervised is ahead of mae, random (p")
    assert verdict(few).startswith("supervised (which saw all labels) is ahead of mae, random (p")
    assert "(which saw all labels)" in verdicts(results + few)[-1]  # the mean of both tests
    assert "supervised (which saw all labels) is ahead" in summary(results + few)[0][0]
    assert "supervised (which saw all labels) 7" in summary(few[:1] + few[5:6])[0][1]  # where nothing can be claimed, too
    elsewhere = [replace(result, data="cifar10") for result in few]
    assert "saw all labels" not in verdict(elsewhere)
    assert rank_figure(few, looks_of(few)).title.endswith("; supervised saw all labels")


def claimed(results) -> bool:
    """Whether the sentence says that somebody is ahead of somebody."""
    return "ahead of" in verdict(results)


def test_a_a_the_sentence_claims_a_difference_in_at_most_five_per_cent():
    """One objective under two names, 200 pairs of seed sets, three tests of each encoder."""
    rng = np.random.default_rng(0)
    again = {"mae": 0.5, "mae_again": 0.5}
    share = np.mean([claimed(drawn(rng, again, 3, num_tasks=3, shared=0.5)) for _ in range(200)])
    print(f"A/A, sentence: {share:.3f}")
    assert share <= stats.binom.ppf(0.999, 200, ALPHA) / 200


def test_three_points_are_found_with_the_seeds_that_the_report_prints():
    rng = np.random.default_rng(0)
    pilot = plan(drawn(rng, {"mae": 0.5, "simclr": 0.5}, 2000))  # a spread that is known
    seeds = int(re.search(r"takes (\d+) seeds", pilot).group(1))
    assert f"vary over seeds by up to {100 * 0.01 * 2**0.5:.2g} points" in pilot
    found = np.mean([claimed(drawn(rng, {"mae": 0.53, "simclr": 0.5}, seeds)) for _ in range(200)])
    print(f"planted 3 points: {seeds} seeds, found {found:.3f}")
    assert found >= stats.binom.ppf(0.001, 200, 0.8) / 200


def test_fronts_are_told_a_family_at_a_time():
    spent = {"flops": 2.8e12, "seconds": 31.0}
    results = [record("mae", 0, 0.5, spent=spent), record("random", 0, 0.4)]
    assert pareto_lines(results) == [
        "Pareto front, knn on emoji: by FLOPs random 40.0 % at 0, mae 50.0 % at 2.8e12; "
        "by seconds random 40.0 % at 0, mae 50.0 % at 31"
    ]
    text = record("mlm", 0, 0.9, model="bert_mini", task="kjv", spent=spent)
    assert pareto_lines([*results, text]) == pareto_lines(results)  # alone it competes with nobody


def test_the_command_prints_table_verdicts_and_head_start(tmp_path, here):
    results = [
        record("mae", seed, accuracy + 0.01 * seed, protocol="linear", fraction=labels / 1000, labels=labels)
        for seed in range(3)
        for labels, accuracy in ((10, 0.3), (1000, 0.7))
    ] + [record("random", seed, 0.51 + 0.012 * (seed - 1), protocol="finetune") for seed in range(3)]
    results += [record("random", seed, 0.4 + 0.012 * seed, protocol="linear") for seed in range(3)]
    for i, result in enumerate(results):
        (tmp_path / "outputs" / str(i)).mkdir(parents=True)
        result.write(tmp_path / "outputs" / str(i))
    done = here("compare.py", f"report={tmp_path / 'outputs'}")
    assert done.returncode == 0, done.stdout
    text = " ".join(done.stdout.split())
    assert "71.0 ± 1.0 (3)" in text
    assert "68.5 to 73.5" in text
    assert "linear on emoji: mae is ahead of random" in text
    assert "head start, mae linear, vit_t on emoji: 10x: 100 labels reach scratch" in text
    assert (ROOT / "docs" / "comparing.md").is_file()
