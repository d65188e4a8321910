"""Figures with two axes or bars: scores, label efficiency, and cost. Each is a small chart with the table behind it."""

from collections.abc import Sequence

from reports.amounts import amount, percent, percent_tick
from reports.figure import Figure, extent, metric, named, numbers, sentence, short, tests
from reports.head_start import HeadStart, head_starts
from reports.pareto import pareto_front
from reports.result import Result
from reports.rows import Row, rows_of
from reports.svg import COLOURS, LETTER, LONGEST, WIDTH, Chart, Scale

HEIGHT, TOP, LEFT, RIGHT = 236, 26, 40, WIDTH - 20  # of a chart with two axes, and its margins
BOTTOM = HEIGHT - 40


def score_figures(results: Sequence[Result], looks: dict[str, int]) -> list[Figure]:
    """One a task and protocol: a bar from zero to the mean, its 95 % interval, and a dot a seed."""
    return [_score_figure(title, rows, looks) for title, rows in tests(results).items()]


def _score_figure(title: str, rows: dict[str, Row], looks: dict[str, int]) -> Figure:
    left = 10 + LETTER * min(LONGEST, max(map(len, rows)))
    bottom = 22 * len(rows) + 6
    chart = Chart(f"{title}: {sentence(rows)}", bottom + 36)
    ends = [end for row in rows.values() for end in (row.score.interval or ()) + tuple(row.score.seeds.values())]
    scale = Scale.around([0, *ends], left, WIDTH - 40)
    chart.x_axis(scale, bottom, f"{metric(rows)}, %", percent_tick, top=4)
    for i, (name, row) in enumerate(rows.items()):
        y, colour = 22.0 * i + 15, f"c{looks[name] % COLOURS}"
        chart.text(left - 8, y + 4, short(name), anchor="end")
        x = sorted((scale(0), scale(row.score.mean)))
        chart.add("rect", f"bar {colour}", x=x[0], y=y - 6, width=x[1] - x[0], height=12.0)
        if row.score.interval is not None:
            low, high = map(scale, row.score.interval)
            chart.line([(low, y - 4), (low, y + 4), (low, y), (high, y), (high, y - 4), (high, y + 4)], "whisker")
        for score in row.score.seeds.values():
            chart.add("circle", f"seed {colour}", cx=scale(score), cy=y, r=2.6)
        chart.text(WIDTH, y + 4, percent(row.score.mean), "value", "end")
    header = ("objective", "mean, %", "95 % interval", "seeds", "each seed")
    return Figure(title, chart.markup, header, [numbers(name, row) for name, row in rows.items()])


def label_figures(results: Sequence[Result], looks: dict[str, int]) -> list[Figure]:
    """One a task, model and protocol with several numbers of labels: the score against them, and the head start."""
    curves: dict[tuple[str, str, str], dict[str, list[Row]]] = {}
    for name, row in named(results, rows_of(results)):
        if row.labels:
            curves.setdefault((row.task, row.model, row.protocol), {}).setdefault(name, []).append(row)
    figures, starts = [], head_starts(results)
    several = len({model for _, model, _ in curves}) > 1
    for (task, model, protocol), found in sorted(curves.items()):
        if max(map(len, found.values())) > 1:
            marked = [start for start in starts if (start.task, start.model, start.protocol) == (task, model, protocol)]
            title = f"{protocol} on {task}" + (f", {model}" if several else "")
            figures.append(_label_figure(title, found, marked, looks))
    return figures


def _label_figure(title: str, curves: dict[str, list[Row]], starts: list[HeadStart], looks: dict[str, int]) -> Figure:
    curves = {name: sorted(rows, key=lambda row: row.labels) for name, rows in curves.items()}
    every = [row for rows in curves.values() for row in rows]
    targets = sorted({start.target for start in starts})  # several where curves share other seeds with scratch
    used = sorted({row.labels for row in every} | {start.scratch_labels for start in starts})
    chart = Chart(f"{title}: score against number of labels, {len(curves)} curves", HEIGHT)
    x = Scale.around(used, LEFT, RIGHT, log=True)
    y = Scale.around([end for row in every for end in extent(row.score)] + targets, BOTTOM, TOP)
    chart.y_axis(y, LEFT, RIGHT, f"{metric({'': every[0]})}, %", percent_tick)
    chart.x_axis(x, BOTTOM, "labels", lambda tick: f"{tick:,.0f}", TOP, _apart(x, used))
    if targets:
        for target in targets:
            chart.line([(LEFT, y(target)), (RIGHT, y(target))], "target")
        chart.text(RIGHT - 2, y(targets[-1]) - 5, "from scratch, all labels", "tick", "end")
    shift = {name: 3 * (i - (len(curves) - 1) / 2) for i, name in enumerate(curves)}  # else intervals hide each other
    for name, rows in curves.items():
        _curve(chart, [(x(row.labels) + shift[name], row) for row in rows], y, name, looks[name])
    names = {(row.objective, row.model): name for name, rows in curves.items() for row in rows}
    reached = [start for start in starts if start.factor is not None]
    for i, start in enumerate(sorted(reached, key=lambda start: start.needed.labels)):
        name = names[start.objective, start.model]
        colour, at = f"c{looks[name] % COLOURS}", x(start.needed.labels) + shift[name]
        chart.line([(at, y(start.target)), (at, BOTTOM)], f"drop {colour}")
        chart.add("circle", f"ring {colour}", cx=at, cy=y(start.target), r=5.0)
        least = "≥ " if start.needed.at_most else ""
        side, aside = ("end", -5) if at > (LEFT + RIGHT) / 2 else ("start", 5)
        chart.text(at + aside, BOTTOM - 6 - 14 * (i % 3), f"{short(name)} {least}{start.factor:.3g}×", "value", side)
    rows = [(name, f"{row.labels:,.0f}", *numbers(name, row)[1:4]) for name, found in curves.items() for row in found]
    header = ("objective", "labels", "mean, %", "95 % interval", "seeds")
    return Figure(title, chart.markup, header, rows)


def pareto_figures(results: Sequence[Result], looks: dict[str, int]) -> list[Figure]:
    """Two a task and protocol: the score against FLOPs and seconds of pre-training, with the Pareto front."""
    figures = []
    for title, found in tests(results).items():
        for cost in ("flops", "seconds"):
            rows = {name: row for name, row in found.items() if row.cost[cost] is not None}
            if len({row.cost[cost] for row in rows.values()}) > 1:
                figures.append(_pareto_figure(title, rows, looks, cost))
    return figures


def _pareto_figure(title: str, rows: dict[str, Row], looks: dict[str, int], cost: str) -> Figure:
    unit = {"flops": "FLOPs", "seconds": "seconds"}[cost]
    names = list(rows)
    points = [(row.cost[cost], row.score.mean) for row in rows.values()]
    front = [names[i] for i in pareto_front(points)]
    chart = Chart(f"{title}, score against {unit} of pre-training; on the Pareto front: {', '.join(front)}", HEIGHT)
    x = Scale.around([0, *(spent for spent, _ in points)], LEFT, RIGHT)
    y = Scale.around([end for row in rows.values() for end in extent(row.score)], BOTTOM, TOP)
    chart.y_axis(y, LEFT, RIGHT, f"{metric(rows)}, %", percent_tick)
    chart.x_axis(x, BOTTOM, f"{unit} of pre-training", amount, TOP)
    places = dict(zip(rows, _beside([x(spent) for spent, _ in points]), strict=True))
    steps: list[tuple[float, float]] = []
    for name in front:
        spent, score = places[name], y(rows[name].score.mean)
        steps += [(spent, steps[-1][1])] if steps else []
        steps.append((spent, score))
    chart.line([*steps, (RIGHT, steps[-1][1])], "front")
    for name, row in rows.items():
        at, kind = places[name], "mark" if name in front else "ring"
        if row.score.interval is not None:
            chart.line([(at, y(end)) for end in row.score.interval], f"spread c{looks[name] % COLOURS}")
        chart.marker(
            at,
            y(row.score.mean),
            looks[name],
            f"{name}: {percent(row.score.mean)} %, {amount(row.cost[cost])} {unit}",
            kind=kind,
        )
    shown = [
        (name, amount(row.cost[cost]), percent(row.score.mean), "yes" if name in front else "no")
        for name, row in sorted(rows.items(), key=lambda item: item[1].cost[cost])
    ]
    return Figure(f"{title}, {unit}", chart.markup, ("objective", unit, "mean, %", "on the front"), shown)


def _curve(chart: Chart, rows: list[tuple[float, Row]], y: Scale, name: str, look: int) -> None:
    """A line through the means at x in user units, with their intervals."""
    chart.line([(at, y(row.score.mean)) for at, row in rows], f"line c{look % COLOURS} d{look % 4}")
    for at, row in rows:
        if row.score.interval is not None:
            chart.line([(at, y(end)) for end in row.score.interval], f"spread c{look % COLOURS}")
        chart.marker(at, y(row.score.mean), look, f"{name}, {row.labels:,.0f} labels: {percent(row.score.mean)} %")


def _beside(places: Sequence[float]) -> list[float]:
    """Places on an axis, where several fall on one moved to stand beside each other: 4 units each."""
    same = [[j for j, other in enumerate(places) if abs(place - other) < 2] for place in places]
    return [
        place + 4 * (there.index(i) - (len(there) - 1) / 2) for i, (place, there) in enumerate(zip(places, same, strict=True))
    ]


def _apart(scale: Scale, values: Sequence[float], distance: float = 42) -> list[float]:
    """The values that can be written below an axis without touching each other, the largest among them."""
    kept: list[float] = []
    for value in sorted(values, reverse=True):
        if not kept or scale(kept[-1]) - scale(value) >= distance:
            kept.append(value)
    return kept
