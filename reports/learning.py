"""Learning curves: how pre-training went, one thin line a run."""

from collections.abc import Sequence

from reports.amounts import amount, percent_tick
from reports.figure import Figure
from reports.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP
from reports.runs import Run
from reports.svg import COLOURS, Chart, Scale

NAMES = {
    "val_knn_accuracy": "validation k-NN accuracy, %",
    "val_bits_per_byte": "validation bits per byte",
    "val_pseudo_perplexity": "validation pseudo-perplexity",
    "val_generator_pseudo_perplexity": "validation pseudo-perplexity of the generator, which is not the encoder",
    "val_caption_perplexity": "validation perplexity of captions, given their pictures",
    "val_code_perplexity": "validation perplexity of pictures as codes, given their captions",
    "feature_std": "spread of features (0 is collapse)",
    "rankme": "effective rank of features",
}
MOST_POINTS = 120  # of a line; a chart has no room for more


def learning_figures(runs: Sequence[tuple[str, Run]], looks: dict[str, int]) -> list[Figure]:
    """What was monitored on the validation split, one figure each, then the loss, one figure an objective.

    Losses of different objectives are numbers of different things, so they never share a figure.

    Args:
        runs: (entrant, run).
    """
    logged = [(name, run) for name, run in runs if run.events.scalars]
    by_flops = all(run.spent.get("flops") and run.spent.get("steps") for _, run in logged)
    figures = []
    for tag in sorted({tag for _, run in logged for tag in run.events.scalars if tag.startswith("monitor/")}):
        name = tag.removeprefix("monitor/")
        figures.append(_figure(NAMES.get(name, name.replace("_", " ")), tag, logged, by_flops, looks))
    for objective in sorted({run.objective for _, run in logged if "loss" in run.events.scalars}):
        those = [(name, run) for name, run in logged if run.objective == objective]
        figures.append(_figure(f"loss of {objective}", "loss", those, by_flops, looks))
    return figures


def _figure(title: str, tag: str, runs: list[tuple[str, Run]], by_flops: bool, looks: dict[str, int]) -> Figure:
    unit = "FLOPs" if by_flops else "steps"
    lines = [(name, run, _points(run, tag, by_flops)) for name, run in runs if tag in run.events.scalars]
    values = [value for _, _, points in lines for _, value in points]
    chart = Chart(f"{title} against {unit} of pre-training, {len(lines)} runs", HEIGHT)
    x = Scale.around([0, *(at for _, _, points in lines for at, _ in points)], LEFT, RIGHT)
    y = Scale.around(values, BOTTOM, TOP)
    chart.y_axis(y, LEFT, RIGHT, "", percent_tick if "%" in title else lambda tick: f"{tick:.4g}")
    chart.x_axis(x, BOTTOM, f"{unit} of pre-training", amount, TOP)
    for name, run, points in lines:
        look = looks[name]
        chart.line([(x(at), y(value)) for at, value in points], f"thin c{look % COLOURS}")
        chart.marker(x(points[-1][0]), y(points[-1][1]), look, f"{name}, seed {run.seed}: {points[-1][1]:.4g}", size=3)
    rows = [
        (
            f"{name}, seed {run.seed}",
            f"{points[0][1]:.4g}",
            f"{points[len(points) // 2][1]:.4g}",
            f"{points[-1][1]:.4g}",
            amount(points[-1][0]),
        )
        for name, run, points in lines
    ]
    return Figure(title, chart.markup, ("run", "first", "half-way", "last", unit), rows)


def _points(run: Run, tag: str, by_flops: bool) -> list[tuple[float, float]]:
    points = run.events.scalars[tag]
    thinned = points[:: max(1, len(points) // MOST_POINTS)]
    if thinned[-1] != points[-1]:
        thinned.append(points[-1])
    unit = run.spent["flops"] / run.spent["steps"] if by_flops else 1
    return [(step * unit, value) for step, value in thinned]
