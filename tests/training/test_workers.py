"""How many processes decode beside a step where nobody says it."""

import joblib
import pytest

from training.launch import threads_a_rank
from training.trainer import resolve_workers


@pytest.mark.parametrize(
    ("cores", "local_ranks", "found"),
    [(1, 1, 1), (2, 1, 1), (4, 1, 3), (16, 1, 8), (64, 8, 7), (128, 8, 8), (8, 8, 1), (4, 8, 1)],
)
def test_beside_a_gpu_it_is_a_share_of_the_cores(monkeypatch, cores, local_ranks, found):
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    assert resolve_workers("auto", "cuda", local_ranks) == found
    assert resolve_workers("auto", "cpu", local_ranks) == resolve_workers("auto", "mps", local_ranks) == 0
    assert resolve_workers(5, "cuda", local_ranks) == resolve_workers(5, "cpu") == 5


@pytest.mark.parametrize(("cores", "devices", "found"), [(1, 2, 1), (8, 2, 4), (7, 2, 3)])
def test_ranks_share_the_cores_of_a_container_and_not_of_its_machine(monkeypatch, cores, devices, found):
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    assert threads_a_rank(devices) == found
