"""How far a run is: by steps, and by a clock that the test turns."""

import pytest

from errors import BadInput
from training.course import Minutes, Steps, Stopwatch
from training.optimization import Optimization


def test_steps():
    course = Steps(4)
    assert (course.progress, course.finished) == (0, False)
    course.advance(3, seconds=1e9)
    assert (course.progress, course.finished, course.position) == (0.75, False, "step 3 of 4")
    course.advance(4, seconds=1e9)
    assert (course.progress, course.finished) == (1, True)


@pytest.mark.parametrize("asked", [10.0, 10.3, 9.7])
def test_minutes_end_at_the_step_that_lies_nearest(asked):
    course, seconds = Minutes(asked), 0.0
    while not course.finished:
        seconds += 0.5
        course.advance(course.step + 1, seconds)
    assert abs(seconds - asked) <= 0.25
    assert course.progress == 1


def test_minutes_end_within_two_per_cent_on_a_machine_whose_speed_drifts():
    course, seconds = Minutes(60.0), 0.0
    while not course.finished:
        seconds += 0.2 + 1.8 * abs(course.step % 97 - 48) / 48  # between 0.2 and 2 s a step
        course.advance(course.step + 1, seconds)
    assert seconds == pytest.approx(60, rel=0.02)


def test_the_schedule_follows_the_clock():
    recipe = Optimization(None, base_lr=1.0, warmup=0.1)
    by_steps, by_clock, factors = Steps(100), Minutes(50.0), []
    for step in range(1, 100):
        by_steps.advance(step, 0.0)
        by_clock.advance(step, step * 0.5)
        factors.append(recipe.lr_factor(step, by_clock.num_steps))
        assert factors[-1] == pytest.approx(recipe.lr_factor(step, by_steps.num_steps))
    assert recipe.lr_factor(0, Minutes(50.0).num_steps) < 1e-6  # nobody knows yet how long a step is
    slower = Minutes(50.0)
    slower.advance(20, 25.0)  # half of the time is gone, so the learning rate is where it would be at step 50 of 100
    assert recipe.lr_factor(20, slower.num_steps) == pytest.approx(factors[49], rel=0.02)


def test_less_than_one_step_is_refused():
    with pytest.raises(BadInput, match=r"budget.minutes=0.01 is smaller than one step: the first took 0.7 s"):
        Minutes(0.6).advance(1, 0.7)


def test_a_stopwatch_leaves_pauses_and_interruptions_out():
    now = 100.0
    watch = Stopwatch(lambda: now, before=5.0, paused=2.0)
    assert watch.seconds == 5
    now += 50  # until training starts
    watch.start()
    now += 3
    with watch.pause():
        now += 10
        assert watch.paused == 2
    now += 1
    assert watch.seconds == 9
    assert watch.paused == 12
