"""What a table shows and what it does not, in sentences."""

import math
from collections.abc import Sequence

from errors import BadInput
from reports.head_start import HeadStart
from reports.result import Result
from reports.scores import Block, block, column, entrants
from reports.statistics import ALPHA, Ranked, compare_pairs, pooled_spread, rank, seeds_needed, shared_blocks

POINTS = 3  # the difference for which the seeds needed are printed


def verdicts(results: Sequence[Result]) -> list[str]:
    """One sentence for each task and protocol column with two entrants or more; then one over all that belong together."""
    parts: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        parts.setdefault((result.transfer["data"], column(result)), []).append(result)
    lines = [f"{name} on {task}: {verdict(found)}" for (task, name), found in sorted(parts.items()) if _can_compare(found)]
    for found in _families(results):
        shared = shared_blocks(found)
        if _can_compare(found) and len(shared) > 1:
            kept = [result for result in found if block(result) in shared]
            lines.append(f"mean of these {len(shared)} tests, {_list_of(shared)}: {verdict(kept)}")
    return lines


def _families(results: Sequence[Result]) -> list[list[Result]]:
    """The results, parted such that no two parts share a task, or an objective on the same model."""
    families: list[tuple[set, list[Result]]] = []
    for result in results:
        keys, found = {(result.objective, result.model), result.transfer["data"]}, [result]
        for family in [family for family in families if family[0] & keys]:
            families.remove(family)
            keys, found = keys | family[0], family[1] + found
        families.append((keys, found))
    return [found for _, found in families]


def _list_of(blocks: set[Block]) -> str:
    return ", ".join(
        f"{protocol}{f' @ {fraction:g}' if fraction != 1 else ''} on {task}" for task, protocol, fraction in sorted(blocks)
    )


def verdict(results: Sequence[Result]) -> str:
    """Who is ahead, if anybody, and how many seeds a difference of 3 points would take.

    Raises:
        BadInput: see `rank`.
    """
    ranking = rank(results)
    best, *others = ranking
    beaten = [ranked.entrant for ranked in others if not ranked.with_the_best]
    close = [ranked.entrant for ranked in others if ranked.with_the_best]
    if all(pair.p is None for pair in compare_pairs(results)):
        return f"no difference can be told; {_why_untested(ranking)}"
    if not close:
        return f"{best.entrant} is ahead of {', '.join(beaten)} (p < {ALPHA:g} after Holm's correction)"
    ahead = f"; ahead of {', '.join(beaten)}" if beaten else ""
    return f"{best.entrant} has the highest mean, not distinguishable from {', '.join(close)}{ahead}{_plan(results)}"


def head_start_line(found: HeadStart) -> str:
    """The head start in one sentence, its limits said."""
    scratch = f"scratch fine-tuned with {found.scratch_labels:,.0f} labels ({100 * found.target:.1f} %)"
    start = f"head start, {found.objective} {found.protocol}, {found.model} on {found.task}: "
    if found.factor is None:
        start += f"{scratch} is not reached with {found.most_labels:,.0f} labels"
    elif found.needed.at_most:
        start += f"at least {found.factor:.3g}x: at most {found.needed.labels:,.0f} labels, the fewest tried, reach {scratch}"
    else:
        start += f"{found.factor:.3g}x: {found.needed.labels:,.0f} labels reach {scratch}"
    if found.interval is None:
        return start + "; no interval without two seeds of either at every label count"
    low, high = found.interval
    if high == 0:
        return start + ", and that is beyond chance"
    below = "not reached" if low == 0 else f"{low:.3g}x"
    above = "more than was tried" if math.isinf(high) else f"{high:.3g}x"
    return start + f"; 95 % interval from {below} to {above}"


def _can_compare(results: Sequence[Result]) -> bool:
    return len(set(entrants(results))) > 1 and bool(shared_blocks(results))


def _why_untested(ranking: Sequence[Ranked]) -> str:
    if max(ranked.num_seeds for ranked in ranking) < 2:
        return "one seed shows no spread"
    return "no two rows share two seeds with a spread"


def _plan(results: Sequence[Result]) -> str:
    pairs = [pair for pair in compare_pairs(results) if pair.p is not None]
    spread = pooled_spread(pairs)
    if spread is None:
        return ""
    try:
        seeds = seeds_needed(POINTS / 100, spread, num_pairs=len(pairs))
    except BadInput as error:
        return f" ({error})"
    return f" (at the measured spread {POINTS} points take {seeds} seeds)"
