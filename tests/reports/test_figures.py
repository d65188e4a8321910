"""Scales, marks, ranks and what charts are made of, against definitions and brute force."""

from xml.etree import ElementTree

import numpy as np
import pytest
from made_results import make_run
from records import drawn, record
from scipy.stats import friedmanchisquare

from reports.events import read_events
from reports.figure import looks_of
from reports.plots import label_figures, pareto_figures, score_figures
from reports.ranks import mean_ranks, rank_figure
from reports.statistics import rank
from reports.svg import COLOURS, SHAPES, Chart, Scale


def attributes(figure, tag: str, kind: str) -> list[dict[str, str]]:
    return [each.attrib for each in ElementTree.fromstring(figure.svg).iter(tag) if kind in each.get("class", "").split()]


def test_scales_end_on_round_numbers_around_all_values():
    scale = Scale.around([0.31, 0.57], 40, 240)
    assert scale.low <= 0.31
    assert scale.high >= 0.57
    assert (scale(scale.low), scale(scale.high)) == (40, 240)
    assert scale.ticks()[0] == scale.low
    assert scale.ticks()[-1] == scale.high
    assert scale((scale.low + scale.high) / 2) == pytest.approx(140)
    same = Scale.around([0.5, 0.5], 0, 100)
    assert 0 < same(0.5) < 100
    log = Scale.around([10, 1000], 0, 100, log=True)
    assert log(100) == pytest.approx((log(10) + log(1000)) / 2)
    assert log.ticks() == [10, 100, 1000]
    assert Scale.around([0, 0], 0, 10)(0) == pytest.approx(5)


def test_every_look_is_different():
    looks = {(i % COLOURS, i % SHAPES) for i in range(COLOURS * SHAPES)}
    assert len(looks) == COLOURS * SHAPES
    marks = set()
    for look in range(SHAPES):
        chart = Chart("", 10)
        chart.marker(0, 0, look)
        marks.add(chart.root[0].get("d"))
    assert len(marks) == SHAPES


def test_grey_is_for_random_initialisation_only():
    results = [record(name, 0, 0.5) for name in ("simclr", "mae", "random", "supervised")]
    assert looks_of(results) == {"random": 0, "supervised": 1, "mae": 2, "simclr": 3}
    assert looks_of([record("mae", 0, 0.5), record("mae", 0, 0.5, model="vit_s")]) == {"mae vit_s": 1, "mae vit_t": 2}


def test_what_is_written_into_a_chart_is_text():
    chart = Chart('"><script>', 10)
    chart.text(0, 0, "<script>&")
    chart.marker(0, 0, 0, "</title><script>")
    assert "<script>" not in chart.markup
    assert ElementTree.fromstring(chart.markup)[0].text == "<script>&"


def test_bars_start_at_zero_and_dots_are_the_seeds():
    results = [record("mae", seed, score) for seed, score in enumerate((0.2, 0.4, 0.3))] + [record("random", 0, 0.6)]
    (figure,) = score_figures(results, looks_of(results))
    lengths = [float(bar["width"]) for bar in attributes(figure, "rect", "bar")]
    assert lengths[0] / lengths[1] == pytest.approx(0.6 / 0.3, rel=0.01)  # random first
    (start,) = {bar["x"] for bar in attributes(figure, "rect", "bar")}
    dots = [float(dot["cx"]) - float(start) for dot in attributes(figure, "circle", "seed")]
    assert dots[1] / dots[2] == pytest.approx(0.5, rel=0.02)
    assert len(attributes(figure, "polyline", "whisker")) == 1  # one seed has no interval
    assert figure.rows[0] == ("random", "60.0", "-", "1", "60.0")


def test_negative_scores_go_to_the_left():
    results = [record("mae", 0, -0.2), record("random", 0, 0.4)]
    (figure,) = score_figures(results, looks_of(results))
    zero, below = attributes(figure, "rect", "bar")
    assert float(below["x"]) + float(below["width"]) == pytest.approx(float(zero["x"]), abs=0.2)


def test_the_head_start_is_marked_where_the_curve_meets_scratch():
    results = [
        record("mae", seed, accuracy + 0.001 * seed, protocol="finetune", fraction=labels / 1000, labels=labels)
        for seed in range(3)
        for labels, accuracy in ((10, 0.3), (1000, 0.7))
    ] + [record("random", seed, 0.5 + 0.001 * seed, protocol="finetune") for seed in range(3)]
    (figure,) = label_figures(results, looks_of(results))
    (ring,) = attributes(figure, "circle", "ring")
    (line,) = attributes(figure, "polyline", "line")[1:]
    (x0, y0), (x1, y1) = (tuple(map(float, point.split(","))) for point in line["points"].split())
    assert float(ring["cx"]) == pytest.approx((x0 + x1) / 2, abs=0.2)  # 100 labels lie half-way on a log axis
    assert float(ring["cy"]) == pytest.approx((y0 + y1) / 2, abs=0.2)
    assert "mae 10×" in figure.svg
    assert ("mae", "10", "30.1", "29.9 to 30.3", "3") in figure.rows


def test_one_number_of_labels_is_no_curve():
    results = [record(name, 0, 0.5, protocol="finetune") for name in ("mae", "random")]
    assert label_figures(results, looks_of(results)) == []


def test_the_front_is_filled_and_the_rest_is_not():
    points = (("mae", 0.6, 2e12), ("simclr", 0.5, 3e12), ("supervised", 0.7, 4e12), ("random", 0.1, None))
    results = [record(name, 0, score, spent={"flops": spent} if spent else {}) for name, score, spent in points]
    (figure,) = pareto_figures(results, looks_of(results))
    assert [row[0] for row in figure.rows if row[3] == "yes"] == ["random", "mae", "supervised"]
    assert len(attributes(figure, "path", "ring")) == 1
    assert len(attributes(figure, "path", "mark")) == 3
    (front,) = attributes(figure, "polyline", "front")
    heights = [float(point.split(",")[1]) for point in front["points"].split()]
    assert heights == sorted(heights, reverse=True)  # never falls
    same = [record(name, 0, score, spent={"flops": 1e12}) for name, score in (("mae", 0.6), ("simclr", 0.5))]
    assert pareto_figures(same, looks_of(same)) == []  # one cost orders nobody


def test_mean_ranks_are_those_of_friedmans_test():
    """Friedman's statistic is a function of the mean ranks: 12 n / (k (k + 1)) (sum R² - k (k + 1)² / 4)."""
    results = drawn(np.random.default_rng(0), {"a": 0.5, "b": 0.505, "c": 0.52, "d": 0.5}, 3, num_tasks=4)
    ranks, n = mean_ranks(results)
    assert n == 12
    of = {name: [r.metrics["accuracy"] for r in results if r.objective == name] for name in "abcd"}
    k = 4
    statistic = 12 * n / (k * (k + 1)) * (sum(r**2 for r in ranks.values()) - k * (k + 1) ** 2 / 4)
    assert statistic == pytest.approx(friedmanchisquare(*of.values()).statistic)


def test_equal_scores_share_their_ranks_and_seeds_that_not_all_have_do_not_count():
    assert mean_ranks([record("a", 0, 0.5), record("b", 0, 0.5)])[0] == {"a": 1.5, "b": 1.5}
    results = [record("a", 0, 0.9), record("a", 1, 0.1), record("b", 1, 0.5), record("b", 2, 0.0)]
    assert mean_ranks(results) == ({"a": 2.0, "b": 1.0}, 1)
    apart = [record("a", 0, 0.9), record("b", 1, 0.5)]
    assert mean_ranks(apart) == ({"a": 1.0, "b": 2.0}, 1)
    assert mean_ranks([record("a", 0, 0.9), record("b", 0, 0.5, protocol="linear")]) == ({}, 0)


def test_bars_of_the_diagram_join_exactly_the_groups():
    results = drawn(np.random.default_rng(0), {"mae": 0.7, "simclr": 0.702, "random": 0.3}, 5, 2)
    figure = rank_figure(results, looks_of(results))
    (bar,) = attributes(figure, "polyline", "joined")
    knots = attributes(figure, "circle", "knot")
    assert len(knots) == 2
    ends = [float(point.split(",")[0]) for point in bar["points"].split()]
    assert (ends[0] + 3, ends[1] - 3) == pytest.approx(sorted(float(knot["cx"]) for knot in knots), abs=0.2)
    groups = {ranked.entrant: ranked.groups for ranked in rank(results)}
    for name, *_, joined in figure.rows:
        assert joined == ", ".join(f"group {group + 1}" for group in groups[name])
    one_seed = [record(name, 0, score) for name, score in (("a", 0.9), ("b", 0.1), ("c", 0.5))]
    assert len(attributes(rank_figure(one_seed, looks_of(one_seed)), "circle", "knot")) == 3  # all in one group
    assert rank_figure([record("a", 0, 0.5)], {"a": 1}) is None


def test_event_files_give_all_scalars_and_the_last_picture_and_text(tmp_path):
    config = {"seed": 3, "names": {"objective": "mae", "model": "vit_t", "datamodule": "emoji"}}
    make_run(tmp_path / "run", config, {"steps": 40})
    events = read_events(tmp_path / "run" / "tensorboard")
    assert [step for step, _ in events.scalars["loss"]] == [10, 20, 30, 40]
    assert events.scalars["loss"][0][1] == pytest.approx(0.103)
    ((picture), (text)) = events.pictures[0], events.texts[0]
    assert (picture.name, picture.step, picture.width, picture.height) == ("views", 40, 16, 8)
    assert (text.name, text.step) == ("guesses", 40)
    assert text.words.startswith("<b>step 40</b>")
    assert read_events(tmp_path / "none").scalars == {}
    file = next((tmp_path / "run" / "tensorboard").glob("events*"))
    file.write_bytes(file.read_bytes()[:400])  # as a full disk leaves it
    assert [step for step, _ in read_events(file.parent).scalars["loss"]][:1] == [10]
    file.write_bytes(b"no event file")
    assert read_events(file.parent).scalars == {}


def test_large_pictures_are_made_smaller(tmp_path):
    import torch
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as log:
        log.add_image("large", torch.zeros(3, 300, 1800), 1)
    (picture,) = read_events(tmp_path).pictures
    assert (picture.width, picture.height) == (720, 120)
