"""Budgets: exactly one, turned into the course of a run."""

import pytest

from datamodules.spec import DataSpec
from errors import BadInput
from training.budget import Budget
from training.course import Minutes, Steps

PICTURES, TEXT = DataSpec("tiny", "image", 100, 32, 3), DataSpec("verses", "text", 100, block_length=16)


@pytest.mark.parametrize(
    ("unit", "amount", "steps"),
    [
        ("steps", 7, 7),
        ("epochs", 2, 25),
        ("epochs", 1, 13),
        ("samples", 100, 12),
        ("samples", 8, 1),
        ("flops", 8e9, 10),
        ("tokens", 1280, 10),
        ("tokens", 1300, 10),
    ],
)
def test_steps(unit, amount, steps):
    # 100 samples an epoch, batches of 8 rows of 16 tokens; 1e8 FLOPs a sample
    assert Budget.of({unit: amount}, 1.0).course(8, TEXT, sample_flops=1e8) == Steps(steps)


def test_minutes_are_not_turned_into_steps():
    assert Budget("minutes", 1.5).course(8, TEXT, 1e8) == Minutes(90)


def test_tokens_are_of_text():
    with pytest.raises(BadInput, match=r"budget.tokens counts tokens of text, and 'tiny' has none; choices: budget.steps"):
        Budget("tokens", 1e6).course(8, PICTURES, 1e8)


def test_no_budget_means_the_default_compute():
    assert Budget.of({"steps": None, "epochs": None}, 1e13) == Budget("flops", 1e13)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"steps": 1, "epochs": 2}, "exactly one budget"),
        ({"tokens": 1e6, "minutes": 2}, "exactly one budget can be set, not budget.tokens and budget.minutes"),
        ({"minutes": 0}, "positive"),
        ({"tokens": -1}, "positive"),
        ({"steps": 0}, "positive"),
        ({"samples": -5}, "positive"),
        ({"epochs": "many"}, "positive"),
        ({"flops": float("nan")}, "positive"),
        ({"step": 1}, "did you mean steps"),
    ],
)
def test_what_is_no_budget_is_refused(asked, message):
    with pytest.raises(BadInput, match=message):
        Budget.of(asked, 1.0)


def test_less_than_one_step_is_refused():
    with pytest.raises(BadInput, match="smaller than one step"):
        Budget("samples", 7).course(8, PICTURES, sample_flops=1.0)
    with pytest.raises(BadInput, match=r"budget.tokens=127 is smaller than one step \(8 samples, 128 tokens"):
        Budget("tokens", 127).course(8, TEXT, sample_flops=1.0)
