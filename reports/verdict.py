"""What a table shows and what it does not, in sentences."""

import math
from collections.abc import Sequence

from errors import BadInput
from reports.amounts import amount, interval, percent
from reports.head_start import HeadStart, largest_head_start
from reports.pareto import fronts
from reports.result import Result
from reports.rows import SHARES
from reports.scores import Block, block, column, entrant_names, entrants, informed, model, objective, task
from reports.statistics import ALPHA, POWER, Pair, Ranked, compare_pairs, largest_spread, rank, seeds_needed, shared_blocks

MOST_LISTED = 6  # tests named in the summary
POINTS = 3  # the difference for which the seeds needed are printed
FEWEST_FOR_A_PLAN = 3  # shared seeds; the spread of two seeds is known to a factor of thirty


def verdicts(results: Sequence[Result]) -> list[str]:
    """One sentence for each task and protocol column with two entrants or more; then one over all that belong together."""
    parts: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        parts.setdefault((task(result), column(result)), []).append(result)
    lines = [f"{name} on {data}: {verdict(found)}" for (data, name), found in sorted(parts.items()) if _can_compare(found)]
    for found in families(results):
        shared = shared_blocks(found)
        if _can_compare(found) and len(shared) > 1:
            kept = [result for result in found if block(result) in shared]
            lines.append(f"mean of these {len(shared)} tests, {_list_of(shared)}: {verdict(kept)}")
    return lines


def families(results: Sequence[Result]) -> list[list[Result]]:
    """The results, parted such that no two parts share a task, or an objective on the same model; the largest first."""
    families: list[tuple[set, list[Result]]] = []
    for result in results:
        keys, found = {(objective(result), model(result)), task(result)}, [result]
        for family in [family for family in families if family[0] & keys]:
            families.remove(family)
            keys, found = keys | family[0], family[1] + found
        families.append((keys, found))
    return sorted((found for _, found in families), key=len, reverse=True)


def _list_of(blocks: set[Block]) -> str:
    return ", ".join(
        f"{protocol}{f' @ {fraction:g}' if fraction != 1 else ''} on {data}" for data, protocol, fraction in sorted(blocks)
    )


def verdict(results: Sequence[Result]) -> str:
    """Who is ahead, if anybody, and how many seeds a difference of 3 points would take.

    Who was pre-trained on all labels of a task, and is compared on a share of them, is said to have been.

    Raises:
        BadInput: see `rank`.
    """
    ranking = rank(results)
    best, *others = zip(_said(ranking, results), ranking, strict=True)
    beaten = [name for name, ranked in others if not ranked.with_the_best]
    close = [name for name, ranked in others if ranked.with_the_best]
    if all(pair.p is None for pair in compare_pairs(results, whole=True)):
        return f"no difference can be told; {_why_untested(ranking)}"
    if not close:
        return f"{best[0]} is ahead of {', '.join(beaten)} (p < {ALPHA:g} after Holm's correction)"
    ahead = f"; ahead of {', '.join(beaten)}" if beaten else ""
    return f"{best[0]} has the highest mean, not distinguishable from {', '.join(close)}{ahead}{_plan(results)}"


def _said(ranking: Sequence[Ranked], results: Sequence[Result]) -> list[str]:
    saw = informed(results)
    return [f"{one.entrant} (which saw all labels)" if one.entrant in saw else one.entrant for one in ranking]


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
        return start + f"; no interval without two seeds of either at every label count (shared: {found.num_seeds or 'none'})"
    low, high = found.interval
    if high == 0:
        return start + f", and that is beyond chance ({found.num_seeds} seeds)"
    below = "not reached" if low == 0 else f"{low:.3g}x"
    above = "more than was tried" if math.isinf(high) else f"{high:.3g}x"
    return start + f"; {100 * found.confidence:.3g} % interval from {below} to {above}, {found.num_seeds} seeds"


def _can_compare(results: Sequence[Result]) -> bool:
    return len(set(entrants(results))) > 1 and bool(shared_blocks(results))


def _why_untested(ranking: Sequence[Ranked]) -> str:
    most = max(ranked.num_seeds for ranked in ranking)
    if most < 2:
        return "one seed shows no spread" if most else "no seed took every test"
    return "no two rows share two seeds with a spread"


def _plan(results: Sequence[Result]) -> str:
    try:
        found = _seeds_for_points(results)
    except BadInput as error:
        return f" ({error})"
    return f" (at the measured spread {POINTS} points take {found[0]} seeds)" if found else ""


def plan(results: Sequence[Result]) -> str:
    """The power calculation in a sentence, or from when on there is one."""
    try:
        found = _seeds_for_points(results)
    except BadInput as error:
        return f"{str(error)[0].upper()}{str(error)[1:]}."
    if found is None:
        return f"The seeds that a difference of {POINTS} points takes are estimated from {FEWEST_FOR_A_PLAN} shared seeds on."
    seeds, spread, num_pairs = found
    return (
        f"Paired differences vary over seeds by up to {100 * spread:.2g} points (standard deviation): to find a true "
        f"difference of {POINTS} points with a chance of {100 * POWER:g} % takes {seeds} seeds (pairs compared: {num_pairs})."
    )


def _seeds_for_points(results: Sequence[Result]) -> tuple[int, float, int] | None:
    """(seeds, spread, number of pairs); None where no pair shares enough seeds to plan with."""
    spread, num_pairs = _spread(results), sum(pair.p is not None for pair in _pairs(results))
    return None if spread is None else (seeds_needed(POINTS / 100, spread, num_pairs=num_pairs), spread, num_pairs)


def _spread(results: Sequence[Result]) -> float | None:
    return largest_spread(pair for pair in _pairs(results) if pair.num_seeds >= FEWEST_FOR_A_PLAN)


def _pairs(results: Sequence[Result]) -> list[Pair]:
    """On the tests that all took, as the verdict is; where there are none, on what each pair shares."""
    return compare_pairs(results, whole=bool(shared_blocks(results)))


def summary(results: Sequence[Result]) -> list[tuple[str, str]]:
    """(who is ahead on the mean of all tests, means and largest head start), for each part that belongs together."""
    return [_summary(found) for found in families(results)]


def _summary(results: Sequence[Result]) -> tuple[str, str]:
    names, shared = sorted(set(entrants(results))), shared_blocks(results)
    tasks = ", ".join(sorted(set(map(task, results))))
    if len(names) < 2:
        return f"Only {names[0]} was tested on {tasks}: there is nothing to compare it with.", ""
    if not shared:
        return f"No test was run for all of {', '.join(names)}, so they are not ranked.", "Single tests are compared below."
    kept = [result for result in results if block(result) in shared]
    listed = f"({_list_of(shared)})" if len(shared) <= MOST_LISTED else f"on {tasks}"
    over = _list_of(shared) if len(shared) == 1 else f"Mean of {len(shared)} tests {listed}"
    ranking = rank(kept)
    lowest = 0.0 if all(result.transfer.get("metric", "accuracy") in SHARES for result in kept) else -1.0
    named = zip(_said(ranking, kept), ranking, strict=True)
    means = ", ".join(f"{name} {_mean(ranked, lowest)}" for name, ranked in named)
    counts = sorted({ranked.num_seeds for ranked in ranking})
    seeds = "one seed" if counts == [1] else f"{' to '.join(map(str, counts[:1] + counts[1:][-1:]))} seeds"
    evidence = f"Means over {seeds}: {means}."
    if _spread(kept) is None:
        evidence += f" {plan(kept)}"
    largest = largest_head_start(results)
    if largest is not None:
        start, num_curves = largest
        chosen = f" (the largest of {num_curves}, the level is corrected for that)" if num_curves > 1 and start.interval else ""
        evidence += f" Largest {head_start_line(start)}{chosen}."
    return f"{over}: {verdict(kept)}.", evidence


def _mean(ranked: Ranked, lowest: float) -> str:
    if ranked.interval is None:
        return f"{percent(ranked.mean)} %"
    ends = max(ranked.interval[0], lowest), min(ranked.interval[1], 1.0)
    return f"{percent(ranked.mean)} % (95 %: {interval(ends)})"


def pareto_lines(results: Sequence[Result]) -> list[str]:
    """What nothing else beats at its cost, cheapest first: one line a test that several rows took."""
    return [line for found in families(results) for line in _pareto_lines(found)]


def _pareto_lines(results: Sequence[Result]) -> list[str]:
    names = entrant_names(results)
    rows = {(task(result), column(result), objective(result), model(result)) for result in results}
    lines: dict[tuple[str, str], list[str]] = {}
    for cost, unit in (("flops", "FLOPs"), ("seconds", "seconds")):
        for key, front in sorted(fronts(results, cost).items()):
            steps = [f"{names[p.objective, p.model]} {100 * p.score:.1f} % at {amount(p.cost)}" for p in front]
            if sum(row[:2] == key for row in rows) > 1:
                lines.setdefault(key, []).append(f"by {unit} {', '.join(steps)}")
    return [f"Pareto front, {name} on {data}: {'; '.join(found)}" for (data, name), found in sorted(lines.items())]
