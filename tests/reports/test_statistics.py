"""Intervals, paired tests, Holm, ranking and power against scipy, brute force and simulation."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from records import drawn, record
from scipy import stats

from errors import BadInput
from reports.statistics import (
    ALPHA,
    bootstrap_interval,
    compare_pairs,
    complete_part,
    groups_without,
    holm,
    largest_spread,
    power,
    rank,
    seeds_needed,
)
from reports.verdict import verdict


def at_most(share: float, trials: int) -> float:
    """The share of hits that is exceeded by chance once in a thousand tests."""
    return stats.binom.ppf(0.999, trials, share) / trials


def at_least(share: float, trials: int) -> float:
    return stats.binom.ppf(0.001, trials, share) / trials


def claims(results) -> int:
    return sum(pair.different for pair in compare_pairs(results))


@pytest.mark.parametrize("num", [2, 3, 5])
def test_the_interval_of_few_seeds_is_that_of_t(num):
    values = np.random.default_rng(num).normal(size=num).tolist()
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert bootstrap_interval(values) == pytest.approx((expected.low, expected.high))


def test_one_seed_has_no_interval():
    assert bootstrap_interval([0.5]) is None
    assert bootstrap_interval([]) is None
    assert bootstrap_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    with pytest.raises(BadInput, match="between 0 and 1"):
        bootstrap_interval([0.1, 0.2], confidence=95)


def test_the_bootstrap_interval_is_that_of_resampling_at_the_level_that_makes_up_for_few_values():
    values = np.random.default_rng(0).exponential(size=12)
    tail = stats.norm.cdf(-np.sqrt(12 / 11) * stats.t.ppf(0.95, 11))
    means = np.random.default_rng(1).choice(values, (200_000, 12)).mean(axis=1)
    assert bootstrap_interval(values, 0.9) == pytest.approx(np.quantile(means, [tail, 1 - tail]), abs=0.02)


@pytest.mark.parametrize(("num", "trials"), [(2, 2000), (3, 2000), (5, 2000), (6, 300), (10, 300)])
def test_the_interval_covers_the_mean(num, trials):
    samples = np.random.default_rng(num).normal(size=(trials, num))
    covered = np.mean([low < 0 < high for low, high in map(bootstrap_interval, samples)])
    assert covered >= at_least(0.93 if num == 6 else 0.95, trials)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_a_bootstrap_of_few_values_is_too_narrow(method):
    covered = []
    for sample in np.random.default_rng(0).normal(size=(300, 4)):
        found = stats.bootstrap((sample,), np.mean, method=method, n_resamples=500, rng=np.random.default_rng(0))
        covered.append(found.confidence_interval.low < 0 < found.confidence_interval.high)
    assert np.mean(covered) < 0.88  # the t interval: 0.95, tested above


def test_holm_is_the_closure_of_bonferroni():
    p = np.random.default_rng(0).uniform(0, 0.2, 6)
    subsets = [subset for num in range(1, 7) for subset in combinations(range(6), num)]
    expected = [max(min(1, len(s) * min(p[list(s)])) for s in subsets if i in s) for i in range(6)]
    assert holm(p) == pytest.approx(expected)
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1, 1]


def test_a_pair_is_the_paired_t_test_of_seed_means():
    rng = np.random.default_rng(0)
    scores = {name: rng.uniform(size=(4, 3)) for name in ("mae", "simclr")}  # seeds, blocks
    results = [
        record(name, seed, values[seed, i], protocol=("knn", "linear", "linear")[i], fraction=(1, 1, 0.1)[i])
        for name, values in scores.items()
        for seed in range(4)
        for i in range(3)
    ]
    (pair,) = compare_pairs(results)
    expected = stats.ttest_rel(scores["mae"].mean(axis=1), scores["simclr"].mean(axis=1))
    assert (pair.first, pair.second, pair.num_seeds, pair.num_blocks) == ("mae", "simclr", 4, 3)
    assert pair.difference == pytest.approx((scores["mae"] - scores["simclr"]).mean())
    assert pair.p == pytest.approx(expected.pvalue)
    assert pair.adjusted_p == pair.p
    swapped = {"mae": "z", "simclr": "a"}
    (other,) = compare_pairs([record(swapped[r.objective], r.seed, r.metrics["accuracy"], protocol=r.transfer["protocol"],
                                     fraction=r.transfer["label_fraction"]) for r in results])  # fmt: skip
    assert other.difference == pytest.approx(-pair.difference)
    assert other.p == pytest.approx(pair.p)


def test_protocol_seeds_and_checkpoints_of_one_run_are_no_repetitions():
    results = [
        record(name, 0, accuracy + 0.001 * i, protocol_seed=i) for name, accuracy in (("a", 0.5), ("b", 0.9)) for i in range(9)
    ]
    (pair,) = compare_pairs(results)
    assert (pair.num_seeds, pair.p, pair.spread, pair.different) == (1, None, None, False)
    assert pair.difference == pytest.approx(-0.4)


def test_other_tasks_do_not_meet_and_other_models_are_other_entrants():
    assert compare_pairs([record("a", 0, 0.1), record("b", 0, 0.2, task="kjv")]) == []
    pairs = compare_pairs([record("a", 0, 0.1), record("b", 0, 0.2, model="vit_s"), record("a", 0, 0.5, model="vit_s")])
    assert [(pair.first, pair.second) for pair in pairs] == [
        ("a vit_s", "a vit_t"),
        ("a vit_s", "b vit_s"),
        ("a vit_t", "b vit_s"),
    ]


def test_copies_are_not_tested():
    (pair,) = compare_pairs([record(name, seed, 0.3 + 0.4 * (name == "a")) for name in "ab" for seed in range(5)])
    assert pair.p is None
    assert not pair.different


def test_a_missing_run_costs_what_it_must_and_no_more():
    seeds = {("t", "knn", 1.0): {0, 1, 2}, ("t", "linear", 1.0): {0, 1, 2}, ("t", "finetune", 1.0): {0}}
    blocks, found = complete_part(seeds)
    assert [block[1] for block in blocks] == ["knn", "linear"]
    assert found == [0, 1, 2]
    many = {("t", f"p{i}", 1.0): {0, 1} if i < 2 else {0} for i in range(9)}  # 9 cells with one seed, 4 with two: two it is
    assert complete_part(many)[1] == [0, 1]
    assert complete_part({}) == ([], [])
    assert complete_part({("t", "knn", 1.0): {0}, ("t", "linear", 1.0): {1}})[1] == [0]


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("num_seeds", [3, 5])
def test_a_a_claims_no_more_than_five_per_cent(num_seeds, skewed):
    rng = np.random.default_rng(num_seeds)
    means = {"mae": 0.5, "mae_again": 0.5}
    share = np.mean([claims(drawn(rng, means, num_seeds, 4, shared=0.5, skewed=skewed)) for _ in range(200)])
    print(f"A/A, {num_seeds} seeds, skewed={skewed}: {share:.3f}")
    assert share <= at_most(ALPHA, 200)


def test_a_a_with_six_pairs_claims_anything_in_at_most_five_per_cent():
    rng = np.random.default_rng(0)
    share = np.mean([claims(drawn(rng, dict.fromkeys("abcd", 0.5), 3, 2, shared=0.5)) > 0 for _ in range(200)])
    print(f"A/A, four objectives: {share:.3f}")
    assert share <= at_most(ALPHA, 200)


def test_pooling_the_tests_of_one_encoder_would_claim_too_much():
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(200):
        results = drawn(rng, {"a": 0.5, "b": 0.5}, 3, 4, shared=0.5)
        of = {name: [r.metrics["accuracy"] for r in results if r.objective == name] for name in "ab"}
        false += stats.ttest_rel(of["a"], of["b"]).pvalue < ALPHA
    print(f"A/A, pooled: {false / 200:.3f}")
    assert false / 200 > 2 * ALPHA


@pytest.mark.parametrize(("standardised", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_seeds_needed_are_the_published_ones(standardised, seeds):
    """Paired t-test, two-sided 5 %, power 80 %: G*Power and R's power.t.test say 199, 34 and 15 pairs."""
    assert seeds_needed(standardised, 1) == seeds
    assert power(seeds, standardised, 1) >= 0.8 > power(seeds - 1, standardised, 1)
    assert seeds_needed(standardised, 1, num_pairs=6) > seeds


def test_power_is_the_mean_over_how_the_spread_is_misjudged():
    """Given the sample's spread, chi-square of n - 1, the mean is normal: averaged over 4,000 quantiles of that spread."""
    chances = (np.arange(4000) + 0.5) / 4000
    for seeds in (2, 3, 4, 5, 6, 8, 12, 20, 37, 200, 5000):
        for difference in (0, 0.05, 0.3, 0.5, 1, 2, 3, 5, 10, 40):  # in spreads
            for alpha in (0.05, 0.05 / 3, 0.05 / 28):
                limits = stats.t.ppf(1 - alpha / 2, seeds - 1) * np.sqrt(stats.chi2.ppf(chances, seeds - 1) / (seeds - 1))
                shift = difference * seeds**0.5
                expected = np.mean(stats.norm.sf(limits - shift) + stats.norm.cdf(-limits - shift))
                assert power(seeds, difference, 1, alpha) == pytest.approx(expected, abs=2e-4)
    assert seeds_needed(0.03, 0.01, num_pairs=3) == 5


def test_a_planted_difference_of_three_points_is_found_as_often_as_promised():
    rng = np.random.default_rng(0)
    spread = 0.01 * 2**0.5  # of a difference of two objectives with 1 point each
    seeds = seeds_needed(0.03, spread)
    promised = power(seeds, 0.03, spread)
    found = np.mean([claims(drawn(rng, {"a": 0.53, "b": 0.5}, seeds)) for _ in range(400)])
    print(f"3 points at 1 point: {seeds} seeds, power {promised:.3f}, found {found:.3f}")
    assert promised >= 0.8
    assert at_least(promised, 400) <= found <= at_most(promised, 400)


def test_with_several_pairs_the_plan_is_on_the_safe_side():
    rng = np.random.default_rng(0)
    seeds = seeds_needed(0.03, 0.01 * 2**0.5, num_pairs=3)
    found = []
    for _ in range(200):
        pairs = compare_pairs(drawn(rng, {"a": 0.53, "b": 0.5, "c": 0.5}, seeds))
        found.append(next(pair.different for pair in pairs if (pair.first, pair.second) == ("a", "b")))
    assert np.mean(found) >= at_least(0.8, 200)


def test_plans_that_cannot_be_made():
    for difference, spread in ((0, 1), (1, 0), (-1, 1)):
        with pytest.raises(BadInput, match="positive"):
            seeds_needed(difference, spread)
    with pytest.raises(BadInput, match="more than"):
        seeds_needed(1e-6, 1)
    assert seeds_needed(1, 1e-3) == 2


def test_the_plan_is_for_the_pair_that_varies_most():
    results = drawn(np.random.default_rng(0), dict.fromkeys("ab", 0.5), 2000)
    assert largest_spread(compare_pairs(results)) == pytest.approx(0.01 * 2**0.5, rel=0.05)
    (pair,) = compare_pairs(results)
    still_open = [replace(pair, spread=spread, adjusted_p=0.5) for spread in (0.01, 0.03, None)]
    claimed = replace(pair, spread=0.2, adjusted_p=1e-9)
    assert largest_spread([*still_open, claimed]) == 0.03  # the claimed one needs no more seeds
    assert largest_spread([claimed]) == 0.2
    assert largest_spread(compare_pairs(drawn(np.random.default_rng(0), dict.fromkeys("ab", 0.5), 1))) is None


def test_groups_are_the_maximal_sets_without_a_difference():
    rng = np.random.default_rng(0)
    names = "abcdef"
    subsets = [set(subset) for num in range(1, 7) for subset in combinations(names, num)]
    for density in (0, 0.2, 0.5, 0.8, 1):
        different = {frozenset(pair) for pair in combinations(names, 2) if rng.uniform() < density}
        free = [subset for subset in subsets if not any(pair <= subset for pair in different)]
        expected = [subset for subset in free if not any(subset < other for other in free)]
        found = groups_without(names, different)
        assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
        assert found == sorted(found)


def test_the_ranking_tells_apart_what_differs_and_nothing_else():
    results = drawn(np.random.default_rng(0), {"mae": 0.7, "simclr": 0.702, "random": 0.3}, 5, 2)
    ranking = rank(results)
    assert [ranked.entrant for ranked in ranking][2] == "random"
    assert [ranked.with_the_best for ranked in ranking] == [True, True, False]
    assert [ranked.groups for ranked in ranking] == [(0,), (0,), (1,)]
    assert all(ranked.interval[0] < ranked.mean < ranked.interval[1] for ranked in ranking)
    assert [ranked.mean for ranked in ranking] == sorted((ranked.mean for ranked in ranking), reverse=True)


def test_one_seed_has_no_winner():
    ranking = rank([record("a", 0, 0.99), record("b", 0, 0.01)])
    assert [ranked.with_the_best for ranked in ranking] == [True, True]
    assert [ranked.interval for ranked in ranking] == [None, None]
    mixed = [record("lucky", 0, 0.99)] + [record(name, seed, 0.5 + 0.001 * seed) for name in "bc" for seed in range(3)]
    assert all(ranked.with_the_best for ranked in rank(mixed))


def test_means_are_over_the_blocks_that_all_have():
    results = [record("a", 0, 0.5), record("b", 0, 0.6), record("a", 0, 1.0, protocol="linear")]
    assert [(ranked.entrant, ranked.mean) for ranked in rank(results)] == [("b", 0.6), ("a", 0.5)]
    with pytest.raises(BadInput, match="cannot be ranked"):
        rank([record("a", 0, 0.5), record("b", 0, 0.6, protocol="linear")])


def test_a_mean_is_of_the_same_seeds_as_its_interval():
    """Of three seeds two took both tests; the third one's 0.9 on one of them is in neither."""
    results = [record("a", seed, accuracy) for seed, accuracy in enumerate((0.50, 0.51, 0.90))]
    results += [record("a", seed, accuracy, protocol="linear") for seed, accuracy in enumerate((0.50, 0.51))]
    (ranked,) = rank(results)
    assert (ranked.mean, ranked.num_seeds) == (pytest.approx(0.505), 2)
    assert ranked.interval[0] < ranked.mean < ranked.interval[1]
    apart = [record("a", 0, 0.2), record("a", 1, 0.4, protocol="linear")]  # no seed took both
    assert [(ranked.mean, ranked.interval) for ranked in rank(apart)] == [(pytest.approx(0.3), None)]


def test_a_claim_needs_means_and_pairs_to_agree():
    """On the common seeds a is ahead; a's other seeds put its mean below b's: nobody is ahead."""
    results = [record("a", seed, 0.60 + 0.001 * seed) for seed in range(3)] + [record("a", seed, 0.1) for seed in range(3, 9)]
    results += [record("b", seed, 0.5 + 0.0011 * seed) for seed in range(3)]
    assert compare_pairs(results)[0].different
    assert all(ranked.with_the_best for ranked in rank(results))


def test_a_mean_of_tests_is_claimed_on_seeds_that_took_them_all():
    """By k-NN a is ahead on five seeds; one seed took the linear probe, too, and there b is 6 points better."""
    noise = np.random.default_rng(0).normal(size=5) / 1000
    results = [record("a", seed, 0.55 + noise[seed]) for seed in range(5)] + [record("b", seed, 0.5) for seed in range(5)]
    assert not rank(results)[1].with_the_best
    results += [record("a", 0, 0.50, protocol="linear"), record("b", 0, 0.56, protocol="linear")]
    assert all(ranked.with_the_best for ranked in rank(results))
    assert "ahead" not in verdict(results)
    assert [(pair.num_blocks, pair.different) for pair in compare_pairs(results)] == [(1, True)]  # the table of pairs says so
    (pair,) = compare_pairs(results, whole=True)
    assert (pair.num_blocks, pair.num_seeds, pair.p) == (2, 1, None)
    results += [record(name, 1, 0.54, protocol="linear") for name in "ab"]
    (pair,) = compare_pairs(results, whole=True)
    assert (pair.num_blocks, pair.num_seeds) == (2, 2)
