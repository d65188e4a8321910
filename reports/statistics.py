"""How sure: intervals of means, paired differences between objectives, a ranking, and the seeds that a difference takes.

Scores and differences are shares in [0, 1]. `docs/comparing.md` says in words what is done here and what it cannot say.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations

import numpy as np
from scipy import stats

from errors import BadInput
from reports.result import Result
from reports.scores import Block, Scores, block, scores_of

ALPHA = 0.05  # share of false claims, over all pairs of one comparison together
POWER = 0.8
FEWEST_FOR_BOOTSTRAP = 6
MOST_SEEDS = 10_000
ROUNDING = 1e-12  # a spread below this is the noise of float arithmetic


@dataclass(frozen=True)
class Pair:
    """Two entrants (see `reports.scores`) on the same seeds and blocks.

    Attributes:
        first, second: their names.
        difference: mean of first - second.
        spread: standard deviation over seeds of the difference; None with one seed.
        num_seeds, num_blocks: what both were tested on.
        p: of the paired t-test over seeds; None where there is none (one seed, or no spread at all).
        adjusted_p: after Holm's correction over all tested pairs.
    """

    first: str
    second: str
    difference: float
    spread: float | None
    num_seeds: int
    num_blocks: int
    p: float | None
    adjusted_p: float | None = None

    @property
    def different(self) -> bool:
        return self.adjusted_p is not None and self.adjusted_p < ALPHA


@dataclass(frozen=True)
class Ranked:
    """An entrant's place.

    Attributes:
        mean: over the seeds with a score in every block; where there are none, of the means of blocks.
        interval: 95 %, of the mean; None with one seed.
        num_seeds: with a score in every block.
        groups: numbers of the groups that it belongs to; two entrants that share one are not distinguishable.
        with_the_best: not distinguishable from the first of the ranking.
    """

    entrant: str
    mean: float
    interval: tuple[float, float] | None
    num_seeds: int
    groups: tuple[int, ...]
    with_the_best: bool


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Interval of the mean over seeds; None with fewer than two values.

    From 6 values on the expanded percentile bootstrap (Hesterberg 2015, "What teachers should know about the bootstrap"):
    the percentile interval at a level that makes up for n instead of n - 1 and for the tails of t. The plain
    percentile and the BCa interval are too narrow here: over 3,000 normal samples of 6, 8 and 10 values the nominal 95 %
    were 86, 89 and 91 % for either, and 93, 94 and 95 % for this one (standard error 0.4).

    With 2 to 5 values there is too little to resample (a bootstrap of 3 values covers 75 %, of 2 values 50 %), so it is the
    t interval, which covers 95 % of normal samples and is as wide as it must be: with 2 seeds 9 standard deviations to
    either side. Without any spread the interval has no width, which is no proof of certainty.

    Raises:
        BadInput: the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise BadInput(f"confidence={confidence} is not between 0 and 1")
    num = len(values)
    if num < 2:
        return None
    centre, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    if spread < ROUNDING:
        return centre, centre
    quantile = stats.t.ppf((1 + confidence) / 2, num - 1)
    if num < FEWEST_FOR_BOOTSTRAP:
        half = float(quantile) * spread / math.sqrt(num)
        return centre - half, centre + half
    expanded = 1 - 2 * stats.norm.cdf(-math.sqrt(num / (num - 1)) * quantile)
    found = stats.bootstrap(
        (np.asarray(values),), np.mean, confidence_level=expanded, method="percentile", rng=np.random.default_rng(0)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted so that the chance of any false claim among them is what one alone would have (Holm 1979)."""
    order = np.argsort(p)
    steps = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.tolist()


def compare_pairs(results: Sequence[Result], *, whole: bool = False) -> list[Pair]:
    """Every pair of entrants that met: the difference on the same seeds and blocks, tested over seeds.

    The blocks (tasks, protocols, label fractions) of one seed are tests of one encoder, so they are not independent, and
    their differences have means of their own, so they cannot be exchanged. They are averaged within a seed first, with equal
    weights; what is left is one difference a seed, for the paired t-test. It is valid at few seeds, where a sign-flip
    permutation test cannot be (at 3 seeds its smallest p is 0.25): if two objectives are equally good, the difference
    of exchangeable scores is symmetric, and for symmetric tails heavier than normal ones t errs on the side of no claim.

    A pair whose differences have no spread at all is not tested: results that do not vary with the seed are most often
    copies, and never tell how much another seed would change.

    Args:
        whole: compare on all the blocks that every entrant was tested on, however few seeds that leaves; else each pair on the
            largest complete part of what the two share, which may be fewer blocks.
    """
    scores = scores_of(results)
    blocks = shared_blocks(results) if whole else None
    pairs = [found for a, b in combinations(sorted(scores), 2) if (found := _pair(scores, a, b, blocks)) is not None]
    tested = [pair for pair in pairs if pair.p is not None]
    adjusted = iter(holm([pair.p for pair in tested]))
    return [replace(pair, adjusted_p=next(adjusted)) if pair.p is not None else pair for pair in pairs]


def _pair(scores: Scores, first: str, second: str, blocks: set[Block] | None = None) -> Pair | None:
    ours, theirs = scores[first], scores[second]
    met = {key: ours[key].keys() & theirs[key].keys() for key in ours.keys() & theirs.keys()}
    if blocks is None:
        blocks, seeds = complete_part({key: seeds for key, seeds in met.items() if seeds})
    else:
        seeds = sorted(set.intersection(*(met[key] for key in blocks))) if blocks else []
    if not seeds:
        return None
    differences = [np.mean([ours[key][seed] - theirs[key][seed] for key in blocks]) for seed in seeds]
    difference = float(np.mean(differences))
    spread = float(np.std(differences, ddof=1)) if len(seeds) > 1 else None
    p = float(stats.ttest_1samp(differences, 0).pvalue) if spread is not None and spread > ROUNDING else None
    return Pair(first, second, difference, spread, len(seeds), len(blocks), p)


def complete_part(seeds_of: dict[Block, set[int]]) -> tuple[list[Block], list[int]]:
    """(blocks, seeds) such that every block has every seed: the one with the most cells, two seeds at least if there are two.

    It looks only at which runs exist, never at their scores, so it cannot favour anybody.
    """
    order = sorted(seeds_of, key=lambda key: (-len(seeds_of[key]), key))
    parts = [
        (order[:num], sorted(reduce(set.intersection, (seeds_of[key] for key in order[:num]))))
        for num in range(1, len(order) + 1)
    ]
    return max(parts, key=lambda part: (min(len(part[1]), 2), len(part[0]) * len(part[1])), default=([], []))


def shared_blocks(results: Sequence[Result]) -> set[Block]:
    """The blocks that every entrant was tested on."""
    scores = scores_of(results)
    return set.intersection(*(set(blocks) for blocks in scores.values())) if scores else set()


def rank(results: Sequence[Result]) -> list[Ranked]:
    """Entrants by their mean score on the blocks that all of them have, best first, in groups.

    Not being distinguishable is no equivalence: it does not carry over from one pair to the next, and the groups (maximal
    sets without a claimed difference, Piepho 2004) may overlap. With one seed nobody is distinguishable from anybody. A
    difference is tested on the seeds that have all of these blocks, because it is said of all of them.

    Raises:
        BadInput: no block has all entrants.
    """
    shared = shared_blocks(results)
    if not shared:
        raise BadInput("no protocol and task was run for every objective and model, so they cannot be ranked")
    kept = [result for result in results if block(result) in shared]
    scores = scores_of(kept)
    complete = {name: _seed_means(blocks) for name, blocks in scores.items()}
    means = {
        name: float(np.mean(list(found.values()))) if found else _block_mean(scores[name]) for name, found in complete.items()
    }
    # a mean also counts seeds that the other did not have; where the two disagree on who is ahead, nothing is claimed
    different = {
        frozenset((pair.first, pair.second))
        for pair in compare_pairs(kept, whole=True)
        if pair.different and pair.difference * (means[pair.first] - means[pair.second]) > 0
    }
    order = sorted(means, key=lambda name: (-means[name], name))
    groups = groups_without(order, different)
    return [
        Ranked(
            name,
            means[name],
            bootstrap_interval(list(complete[name].values())),
            len(complete[name]),
            tuple(number for number, group in enumerate(groups) if name in group),
            frozenset((name, order[0])) not in different,
        )
        for name in order
    ]


def _seed_means(blocks: dict[Block, dict[int, float]]) -> dict[int, float]:
    """Seed -> mean over blocks, for the seeds that every block has."""
    complete = sorted(set.intersection(*(set(seeds) for seeds in blocks.values())))
    return {seed: float(np.mean([scores[seed] for scores in blocks.values()])) for seed in complete}


def _block_mean(blocks: dict[Block, dict[int, float]]) -> float:
    return float(np.mean([np.mean(list(seeds.values())) for seeds in blocks.values()]))


def groups_without(names: Sequence[str], different: set[frozenset[str]]) -> list[list[str]]:
    """The maximal sets of `names` that hold no pair of `different`, by insert and absorb (Piepho 2004)."""
    groups = [set(names)]
    for pair in different:
        split = [group - {name} for group in groups if pair <= group for name in pair]
        groups = [group for group in groups if not pair <= group] + split
        groups = [
            group
            for i, group in enumerate(groups)
            if not any(group < other or (group == other and i > j) for j, other in enumerate(groups))
        ]
    places = sorted(sorted(names.index(name) for name in group) for group in groups)
    return [[names[place] for place in group] for group in places]


def power(num_seeds: int, difference: float, spread: float, alpha: float = ALPHA) -> float:
    """The chance that a paired t-test over seeds claims a true difference: t squared is noncentral F with 1 degree of freedom.

    Not by the noncentral t distribution, of which scipy returns NaN for ordinary numbers of seeds.

    Args:
        num_seeds: at least 2.
        difference: of the true means.
        spread: standard deviation over seeds of the paired difference, in the same unit; of two unrelated objectives
            that is the square root of the sum of their variances.
        alpha: two-sided level of the one test; for m pairs ALPHA / m is on the safe side of Holm's correction.
    """
    shift = abs(difference) / spread * math.sqrt(num_seeds)
    limit = stats.t.ppf(1 - alpha / 2, num_seeds - 1)
    return float(stats.ncf.sf(limit**2, 1, num_seeds - 1, max(shift, 1e-6) ** 2))  # at 0 scipy answers below 0


def seeds_needed(difference: float, spread: float, target: float = POWER, num_pairs: int = 1) -> int:
    """The fewest seeds, at least 2, with which a true `difference` is claimed with a chance of `target` (see `power`).

    A spread measured on 3 seeds is itself known only to a factor of 0.5 to 6, so this is a plan and no promise.

    Raises:
        BadInput: difference or spread not positive, or more than 10,000 seeds.
    """
    if not (difference > 0 and spread > 0):
        raise BadInput(f"difference={difference} and spread={spread} must be positive")

    def enough(num: int) -> bool:
        return power(num, difference, spread, ALPHA / num_pairs) >= target

    high = 2
    while not enough(high):
        if high > MOST_SEEDS:
            raise BadInput(f"a difference of {difference:g} at a spread of {spread:g} takes more than {MOST_SEEDS} seeds")
        high *= 2
    return next(num for num in range(max(2, high // 2), high + 1) if enough(num))


def largest_spread(pairs: Iterable[Pair]) -> float | None:
    """The largest spread of the pairs that are not told apart yet, else of all; None where no pair has any.

    Pairs differ in their spread, and seeds that suffice on average are too few for the pair that varies most.
    """
    known = [pair for pair in pairs if pair.spread is not None and pair.spread > ROUNDING]
    still_open = [pair for pair in known if not pair.different]
    return max((pair.spread for pair in still_open or known), default=None)
