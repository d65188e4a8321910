"""Benchmarks: both sides of a case do the same work, measured and counted as the table says."""

import pytest

from benchmarks.run import TRAINED, case_named

STEPS = 2


class Enough(BaseException):
    """Ends a training loop that has no end."""


class Counting:
    """A gate that closes after some steps."""

    def __init__(self, num_steps: int = STEPS):
        self.left, self.facts = num_steps, {}

    def describe(self, **facts):
        self.facts |= facts

    def step(self, **facts):
        self.facts |= facts
        self.left -= 1
        if self.left == 0:
            raise Enough


def facts_of(side, *arguments):
    gate = Counting()
    with pytest.raises(Enough):
        side(gate, *arguments)
    return gate.facts


@pytest.mark.parametrize("name", TRAINED)
def test_all_sides_of_a_case_train_as_many_weights(name):
    case = case_named(name)
    ours = facts_of(case.ours, case.toy, "fp32")
    for peer, entry in case.rivals().items():
        theirs = facts_of(entry.side, case.toy, "fp32")
        if "parameters" in ours:
            assert ours["sample_flops"] > 0
            exact = peer == "bare"
            assert theirs["parameters"] == pytest.approx(ours["parameters"], rel=0 if exact else 0.01), peer
