"""Ranges of numbers, for the signatures of what a configuration builds; `conf/targets.py` reads them there.

A number is finite wherever it stands; these say which finite ones. Nothing is checked when a class is called from Python.
"""

from typing import Annotated

from annotated_types import Ge, Gt, Interval

LARGEST_SEED = 2**63 - 1  # that all generators take

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
ShareAbove0 = Annotated[float, Interval(gt=0, le=1)]
ShareBelow1 = Annotated[float, Interval(ge=0, lt=1)]  # also the probability of dropping something: never all of it
OpenShare = Annotated[float, Interval(gt=0, lt=1)]
Count = Annotated[int, Ge(1)]
CountOr0 = Annotated[int, Ge(0)]
Seed = Annotated[int, Interval(ge=0, le=LARGEST_SEED)]
