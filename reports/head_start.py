"""The head start: how many times fewer labels a pre-trained encoder needs to be as good as training from scratch with all.

Scratch is the objective "random" with the protocol "finetune" at label fraction 1: its mean score is the target. Between the
label counts that were tried a score is interpolated linearly in the logarithm of the number of labels, after isotonic
regression: more labels don't hurt, noise does.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.isotonic import isotonic_regression

from errors import BadInput
from reports.result import Result
from reports.scores import by_seed, model, objective, protocol, saw_the_labels, task
from reports.statistics import bootstrap_interval

SCRATCH = ("random", "finetune")  # objective and protocol
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Curve:
    """Label efficiency: labels (L,), rising, and for each the scores by seed."""

    labels: tuple[float, ...]
    scores: tuple[dict[int, float], ...]

    @property
    def means(self) -> list[float]:
        return [float(np.mean(list(scores.values()))) for scores in self.scores]


@dataclass(frozen=True)
class Needed:
    """How many labels a curve needs for a target.

    Attributes:
        labels: the number; None where the target is not reached.
        at_most: the fewest labels that were tried were already enough, so `labels` is an upper limit.
    """

    labels: float | None
    at_most: bool = False


@dataclass(frozen=True)
class HeadStart:
    """One objective and protocol against scratch.

    Attributes:
        objective, protocol, model, task: which.
        target: score of scratch, on the shared seeds.
        scratch_labels: what scratch used.
        most_labels: the most that the pre-trained encoder was given.
        needed: labels that the pre-trained encoder needs for the target.
        num_seeds: that scratch and the encoder share at every label count: target, curve and interval are of these. 0 where
            they share none, and both means are of all that there are.
        interval: of the factor; ends are 0 (may never reach it) and infinity (may need fewer than were tried). None where
            fewer than two seeds are shared.
        confidence: of the interval.
    """

    objective: str
    protocol: str
    model: str
    task: str
    target: float
    scratch_labels: float
    most_labels: float
    needed: Needed
    num_seeds: int
    interval: tuple[float, float] | None
    confidence: float = CONFIDENCE

    @property
    def factor(self) -> float | None:
        """Labels of scratch / labels needed; a lower limit where `needed.at_most`; None where the target is not reached."""
        return None if self.needed.labels is None else self.scratch_labels / self.needed.labels


def labels_needed(labels: Sequence[float], scores: Sequence[float], target: float) -> Needed:
    """The fewest labels at which a score that rises with them reaches the target.

    Args:
        labels: (L,), positive and rising.
        scores: (L,), never falling.

    Raises:
        BadInput: labels do not rise, or scores fall.
    """
    if min(labels) <= 0 or np.any(np.diff(labels) <= 0) or np.any(np.diff(scores) < 0):
        raise BadInput(
            f"a label-efficiency curve needs labels that rise {list(labels)} and scores that do not fall {list(scores)}"
        )
    reached = int(np.searchsorted(scores, target))
    if reached == len(scores):
        return Needed(None)
    if reached == 0:
        return Needed(labels[0], at_most=True)
    low, high = scores[reached - 1], scores[reached]
    share = (target - low) / (high - low)
    return Needed(labels[reached - 1] ** (1 - share) * labels[reached] ** share)


def factor_interval(
    curve: Curve, scratch: dict[int, float], scratch_labels: float, confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Interval of the factor, over the seeds that curve and scratch share; None without two at every label count.

    It holds the label counts at which the mean difference to scratch could be zero: where the interval of the difference
    (`bootstrap_interval`, which is honest at few seeds) reaches zero, interpolated as the curve is. Resampling the factor
    itself would be too narrow at few seeds, and has no answer for the resamples that never reach the target.
    """
    bounds = []
    for scores in curve.scores:
        bound = bootstrap_interval(
            [scores[seed] - scratch[seed] for seed in sorted(scores.keys() & scratch.keys())], confidence
        )
        if bound is None:
            return None
        bounds.append(bound)
    low, high = np.transpose(bounds)
    soonest = labels_needed(curve.labels, np.maximum.accumulate(high), 0.0)
    latest = labels_needed(curve.labels, np.minimum.accumulate(low[::-1])[::-1], 0.0)
    most = math.inf if soonest.at_most else 0.0 if soonest.labels is None else scratch_labels / soonest.labels
    return (0.0 if latest.labels is None else scratch_labels / latest.labels), most


def head_starts(results: Iterable[Result], confidence: float = CONFIDENCE) -> list[HeadStart]:
    """One of every objective and protocol with two label counts or more, where scratch was run on the same model and task.

    Random initialisation has no head start, and neither has supervised training on the labels of the same task: it has
    seen them all.

    Args:
        confidence: of each interval.
    """
    cells: dict[tuple[str, str], dict[tuple[str, str], dict[float, list[Result]]]] = {}
    for result in results:
        labels = result.transfer.get("num_labels")
        if labels and not saw_the_labels(result):
            there = cells.setdefault((model(result), task(result)), {})
            there.setdefault((objective(result), protocol(result)), {}).setdefault(labels, []).append(result)
    found = []
    for place, curves in sorted(cells.items()):
        scratches = _scratches(curves)
        for name, runs_of in sorted(curves.items()):
            # where scratch was fine-tuned in several ways, only fine-tuning in the same way can be compared with it
            known = scratches.get(name[1]) or (next(iter(scratches.values())) if len(scratches) == 1 else None)
            if known and name[0] != SCRATCH[0] and len(runs_of) > 1:
                curve = Curve(tuple(sorted(runs_of)), tuple(by_seed(runs_of[labels]) for labels in sorted(runs_of)))
                found.append(_head_start(*name, *place, curve, by_seed(known[1]), known[0], confidence))
    return found


def _scratches(curves: dict[tuple[str, str], dict[float, list[Result]]]) -> dict[str, tuple[float, list[Result]]]:
    """Way of fine-tuning -> (labels, results) of scratch with all labels."""
    found = {}
    for (_, name), runs_of in curves.items():
        whole = {labels: runs for labels, runs in runs_of.items() if runs[0].transfer["label_fraction"] == 1}
        first = next(iter(runs_of.values()))[0]
        if whole and (first.objective, first.transfer["protocol"]) == SCRATCH:
            found[name] = max(whole.items())
    return found


def largest_head_start(results: Sequence[Result]) -> tuple[HeadStart, int] | None:
    """(the largest head start, of how many curves it was chosen); None where none reaches its target.

    The largest of many is partly luck, so each interval gets the level at which all of them hold at once (Bonferroni).
    """
    num_curves = len(head_starts(results))
    starts = head_starts(results, 1 - (1 - CONFIDENCE) / max(num_curves, 1))
    reached = [found for found in starts if found.factor is not None]
    return (max(reached, key=lambda found: found.factor), num_curves) if reached else None


def _head_start(
    objective: str,
    protocol: str,
    model: str,
    task: str,
    curve: Curve,
    scratch: dict[int, float],
    scratch_labels: float,
    confidence: float,
) -> HeadStart:
    shared = sorted(set(scratch).intersection(*curve.scores))
    if shared:
        curve = Curve(curve.labels, tuple({seed: scores[seed] for seed in shared} for scores in curve.scores))
        scratch = {seed: scratch[seed] for seed in shared}
    target = float(np.mean(list(scratch.values())))
    smooth = isotonic_regression(curve.means, sample_weight=[float(len(scores)) for scores in curve.scores])
    needed = labels_needed(curve.labels, smooth, target)
    interval = factor_interval(curve, scratch, scratch_labels, confidence) if shared else None
    return HeadStart(
        objective, protocol, model, task, target, scratch_labels, curve.labels[-1], needed, len(shared), interval, confidence
    )
