"""Throughput and utilisation: the table of peak rates by device name, and what is logged of steps whose times are known."""

from types import SimpleNamespace

import pytest

from training import throughput
from training.throughput import Throughput, peak_flops


@pytest.mark.parametrize(
    ("name", "half", "single"),
    [
        ("NVIDIA A100-SXM4-80GB", 312, 19.5),
        ("NVIDIA H100 80GB HBM3", 989.4, 67),
        ("NVIDIA H100 PCIe", 756, 51),
        ("NVIDIA H100 NVL", 835.5, 60),
        ("NVIDIA H200", 989.5, 67),
        ("NVIDIA L4", 121, 30.3),
        ("NVIDIA L40S", 362, 91.6),
        ("Tesla T4", 65, 8.1),
        ("Tesla V100-SXM2-16GB", 125, 15.7),
        ("Tesla V100-PCIE-32GB", 112, 14),
    ],
)
def test_peaks_are_the_dense_rates_of_the_data_sheets(name, half, single):
    assert (peak_flops(name, "bf16"), peak_flops(name, "fp32")) == (half * 1e12, single * 1e12)


@pytest.mark.parametrize("name", ["NVIDIA A10G", "NVIDIA GeForce GTX 1080", "NVIDIA GH200 480GB", ""])
def test_an_unknown_device_has_no_peak(name):
    assert peak_flops(name, "bf16") is None


class Clock:
    """A run whose steps take 3 s, 1 s of it waiting for data, and whose monitors take 5 s, which are no training time."""

    def __init__(self, monkeypatch):
        self.now = self.paused = 0.0
        self.waiting = 1.0
        monkeypatch.setattr(throughput.time, "perf_counter", lambda: self.now)
        self.logged: dict[int, dict[str, float]] = {}
        self.trainer = SimpleNamespace(
            is_global_zero=True, world_size=2, logger=SimpleNamespace(log_metrics=lambda values, step: self.log(values, step))
        )
        self.module = SimpleNamespace(
            batch_size=6, course=SimpleNamespace(step=0, finished=False), watch=SimpleNamespace(seconds=0.0)
        )

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged[step] = values

    def step(self, callback: Throughput) -> None:
        self.now += self.waiting
        callback.on_train_batch_start(self.trainer, self.module)
        self.now += 2
        if self.module.course.step == 4:
            self.now, self.paused = self.now + 5, 5.0
        self.module.course.step += 1
        self.module.watch.seconds = self.now - self.paused
        callback.on_train_batch_end(self.trainer, self.module)


def test_what_is_logged_follows_from_the_times(monkeypatch, capsys):
    clock, callback = Clock(monkeypatch), Throughput(sample_flops=5e12, sample_tokens=128, precision="bf16")
    callback._peak = 20e12
    for _ in range(25):
        clock.step(callback)
    assert list(clock.logged) == [10, 20]
    for values in clock.logged.values():
        assert values["throughput/samples_per_second"] == pytest.approx(2)
        assert values["throughput/tokens_per_second"] == pytest.approx(256)
        assert values["throughput/flops_per_second"] == pytest.approx(1e13)
        assert values["throughput/mfu"] == pytest.approx(1e13 / 2 / 20e12)  # of two devices
        assert values["throughput/data_share"] == pytest.approx(1 / 3)
    callback.on_train_end(clock.trainer, clock.module)
    assert "33% of the time went by waiting for data: more trainer.workers" in capsys.readouterr().out


def test_a_run_that_hardly_waits_or_has_hardly_begun_says_nothing(monkeypatch, capsys):
    short, busy = Clock(monkeypatch), Clock(monkeypatch)
    for clock, waiting, steps in ((short, 1.0, 9), (busy, 0.1, 20)):
        clock.waiting, callback = waiting, Throughput(1.0, 1, "fp32")
        for _ in range(steps):
            clock.step(callback)
        callback.on_train_end(clock.trainer, clock.module)
    assert capsys.readouterr().out == ""


def test_without_a_peak_or_text_there_is_no_line_for_them(monkeypatch):
    clock, callback = Clock(monkeypatch), Throughput(1.0, 1, "fp32")
    for _ in range(10):
        clock.step(callback)
    names = {name.partition("/")[2] for name in clock.logged[10]}
    assert names == {"samples_per_second", "flops_per_second", "data_share"}
