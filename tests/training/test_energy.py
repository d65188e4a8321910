"""Energy and CO2, with a stand-in for codecarbon: summed over interruptions, in the record, and absent without the package."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest

from reports.result import read_result
from training.energy import Energy

STAND_IN = """
from types import SimpleNamespace

class OfflineEmissionsTracker:
    '''2 Wh and half a gram of CO2 at every measurement.'''
    def __init__(self, save_to_file, log_level, allow_multiple_runs, output_handlers):
        self.handlers, self.count, self.running = output_handlers, 0, False
    def start(self):
        self.running = True
    def flush(self):
        assert self.running
        self.count += 1
        for handler in self.handlers:
            handler.out(SimpleNamespace(energy_consumed=0.002 * self.count, emissions=0.0005 * self.count), None)
    def stop(self):
        self.flush()
        self.running = False
"""
TRAINER = SimpleNamespace(is_global_zero=True)


@pytest.fixture
def codecarbon(monkeypatch):
    module = ModuleType("codecarbon")
    module.__spec__ = ModuleSpec("codecarbon", None)
    exec(STAND_IN, module.__dict__)
    monkeypatch.setitem(sys.modules, "codecarbon", module)


def test_what_was_spent_before_an_interruption_counts(codecarbon):
    first, second = Energy(), Energy()
    first.on_train_start(TRAINER, None)
    saved = first.state_dict()
    assert saved == {"energy_kwh": 0.002, "co2_kg": 0.0005}
    first.on_exception(TRAINER, None, KeyboardInterrupt())
    second.load_state_dict(saved)
    second.on_train_start(TRAINER, None)
    second.on_train_end(TRAINER, None)
    assert second.spent == {"energy_kwh": 0.004, "co2_kg": 0.001}


def test_the_record_holds_it(codecarbon, here, tmp_path, pictures):
    done = here(
        "train.py", "model.depth=1", "datamodule=image_folder", f"datamodule.root={pictures}", "datamodule.batch_size=8",
        "budget.steps=1", "monitor.times=0", "hydra.run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    spent = read_result(tmp_path / "run" / "result.json").budget_spent
    assert spent["energy_kwh"] == pytest.approx(0.004)  # the last checkpoint and the end
    assert set(spent) == {"steps", "samples", "epochs", "flops", "minutes", "energy_kwh", "co2_kg"}


def test_without_the_package_nothing_is_measured(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    energy = Energy()
    energy.on_train_start(TRAINER, None)
    energy.on_train_end(TRAINER, None)
    assert energy.spent == energy.state_dict() == {}
