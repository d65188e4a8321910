"""Mean ranks over tests, and the critical-difference diagram of them (Demsar 2006)."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from reports.amounts import interval, percent
from reports.figure import Figure, short
from reports.result import Result
from reports.scores import block, informed, scores_of
from reports.statistics import rank, shared_blocks
from reports.svg import LETTER, LONGEST, WIDTH, Chart, Scale


def mean_ranks(results: Sequence[Result]) -> tuple[dict[str, float], int]:
    """(entrant -> mean rank, 1 is best; number of rankings), over the blocks that every entrant was tested on.

    Demsar 2006, "Statistical Comparisons of Classifiers over Multiple Data Sets", section 3.2.2: the scores of a test are
    ranked, equal ones share their places. Each block is ranked on each seed that all share, else on the means over seeds.
    """
    scores = scores_of(results)
    names, ranks = sorted(scores), []
    for key in sorted(shared_blocks(results)):
        seeds = sorted(set.intersection(*(set(scores[name][key]) for name in names)))
        if seeds:
            tests = [[scores[name][key][seed] for name in names] for seed in seeds]
        else:
            tests = [[float(np.mean(list(scores[name][key].values()))) for name in names]]
        ranks += [rankdata([-score for score in test]) for test in tests]
    return dict(zip(names, np.mean(ranks, axis=0).tolist(), strict=True)) if ranks else {}, len(ranks)


def rank_figure(results: Sequence[Result], looks: dict[str, int]) -> Figure | None:
    """The critical-difference diagram (Demsar 2006, figure 1): mean ranks, and bars over what is not distinguishable.

    The bars are the groups of `reports.statistics.rank`, not Nemenyi's critical difference: tests of one encoder depend on
    each other. A knot marks who belongs to a bar. None where fewer than two entrants met.
    """
    ranks, num_rankings = mean_ranks(results)
    if len(ranks) < 2:
        return None
    shared = shared_blocks(results)
    ranking = {ranked.entrant: ranked for ranked in rank([result for result in results if block(result) in shared])}
    order = sorted(ranks, key=lambda name: (ranks[name], name))
    groups = sorted({group for ranked in ranking.values() for group in ranked.groups})
    members = [found for group in groups if len(found := [name for name in order if group in ranking[name].groups]) > 1]
    left, top = 10 + LETTER * min(LONGEST, max(map(len, order))), 52.0 + 9 * len(members)
    words = ", ".join(f"{name} {ranks[name]:.2f}" for name in order)
    chart = Chart(f"Mean ranks, 1 is best: {words}", top + 22 * len(order) + 4)
    scale = Scale(1, len(order), left, WIDTH - 46)
    chart.text(0, 10, "mean rank, 1 is best", "name")
    for tick in range(1, len(order) + 1):
        chart.line([(scale(tick), 38), (scale(tick), top + 22 * len(order))], "grid")
        chart.text(scale(tick), 32, str(tick), "tick", "middle")
    for i, names in enumerate(members):
        y = 48.0 + 9 * i
        chart.line([(scale(ranks[names[0]]) - 3, y), (scale(ranks[names[-1]]) + 3, y)], "joined")
        for name in names:
            chart.add("circle", "knot", cx=scale(ranks[name]), cy=y, r=3.2)
    for i, name in enumerate(order):
        y = top + 22.0 * i + 10
        chart.line([(scale(ranks[name]), 38), (scale(ranks[name]), y)], "lead")
        chart.text(left - 8, y + 4, short(name), anchor="end")
        chart.marker(scale(ranks[name]), y, looks[name])
        chart.text(WIDTH, y + 4, f"{ranks[name]:.2f}", "value", "end")
    joined = [", ".join(f"group {groups.index(group) + 1}" for group in ranking[name].groups) for name in order]
    rows = [
        (name, f"{ranks[name]:.2f}", percent(ranking[name].mean), interval(ranking[name].interval), group)
        for name, group in zip(order, joined, strict=True)
    ]
    title = f"mean of {num_rankings} rankings, {len(shared)} {'test' if len(shared) == 1 else 'tests'}"
    saw = sorted(informed([result for result in results if block(result) in shared]))
    title += f"; {', '.join(saw)} saw all labels" if saw else ""
    header = ("objective", "mean rank", "mean score, %", "95 % interval", "not distinguishable within")
    return Figure(title, chart.markup, header, rows)
