"""The Pareto front against the definition, point by point."""

from dataclasses import replace

import numpy as np
import pytest
from records import record

from reports.pareto import fronts, pareto_front
from reports.scores import cost_of, mean_cost


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_nothing_dominates(seed):
    points = [tuple(map(float, point)) for point in np.random.default_rng(seed).integers(0, 6, (12, 2))]  # with ties and copies
    expected = {
        i
        for i, (cost, score) in enumerate(points)
        if not any((c <= cost and s >= score) and (c < cost or s > score) for c, s in points)
    }
    front = pareto_front(points)
    assert set(front) == expected
    assert len(front) == len(expected)
    assert [points[i] for i in front] == sorted(points[i] for i in front)


def test_no_points():
    assert pareto_front([]) == []


def test_results_become_points_and_random_costs_nothing():
    results = [record("random", 0, 0.3), record("lost", 0, 0.99)]  # the cost of `lost` is not recorded
    for seed in (0, 1):
        results.append(record("mae", seed, 0.5 + 0.1 * seed, spent={"flops": 2e12 + seed * 2e12, "seconds": 90.0}))
        results.append(record("simclr", seed, 0.4, spent={"flops": 5e12, "seconds": 30.0}))
        results.append(record("simclr", seed, 0.4, protocol="linear", spent={"flops": 5e12, "seconds": 30.0}))
    front = fronts(results)[("emoji", "knn")]
    assert [(point.objective, point.cost, point.score) for point in front] == [("random", 0, 0.3), ("mae", 3e12, 0.55)]
    assert [point.objective for point in fronts(results, "seconds")[("emoji", "knn")]] == ["random", "simclr", "mae"]
    assert [point.objective for point in fronts(results)[("emoji", "linear")]] == ["simclr"]


def test_a_cost_is_the_mean_over_runs_however_often_each_was_tested():
    results = [record("mae", 0, 0.5, protocol_seed=i, spent={"flops": 1e12}) for i in range(3)]
    results.append(record("mae", 1, 0.5, spent={"flops": 5e12}))
    ((point,),) = fronts(results).values()
    assert point.cost == mean_cost(results, "flops") == 3e12


def test_seconds_are_those_of_training_without_monitors():
    """Half of mae's hour of wall clock went into monitors, which the budget does not count."""
    mae = record("mae", 0, 0.5, spent={"flops": 1e12, "minutes": 30.0, "seconds": 3600.0})
    simclr = record("simclr", 0, 0.4, spent={"flops": 1e12, "minutes": 40.0, "seconds": 2400.0})
    assert mean_cost([mae], "seconds") == 1800
    assert [point.objective for point in fronts([mae, simclr], "seconds")[("emoji", "knn")]] == ["mae"]
    assert mean_cost([record("old", 0, 0.5, spent={"seconds": 90.0})], "seconds") == 90  # of a version without minutes


def test_a_cost_holds_that_of_what_a_run_was_built_on():
    student, unknown, moved = (record(name, 0, 0.5, spent={"flops": 1.0, "minutes": 1.0, "samples": 9}) for name in "abc")
    student.transfer["built_on"] = {"from": ["runs/teacher"], "flops": 4.0, "minutes": 40.0}
    unknown.transfer["built_on"] = {"from": ["model.pretrained"], "flops": None, "minutes": None}
    moved.transfer["continued_from"] = "runs/first"  # of a version that did not record the cost
    costs = [[cost_of(result, name) for name in ("flops", "seconds", "samples")] for result in (student, unknown, moved)]
    assert costs == [[5.0, 41 * 60, 9], [None, None, 9], [None, None, 9]]
    fresh = record("random", 0, 0.3)
    from_elsewhere = replace(unknown, objective="random")
    assert (cost_of(fresh, "flops"), cost_of(from_elsewhere, "flops")) == (0, None)
    front = fronts([student, unknown, moved, fresh])[("emoji", "knn")]
    assert [(point.objective, point.cost) for point in front] == [("random", 0), ("a", 5.0)]
