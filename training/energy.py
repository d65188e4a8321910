"""Energy and CO2 of the training, as codecarbon estimates them where it is installed (extra "energy")."""

import importlib.util
import logging
from typing import Any

import lightning as L


class Energy(L.Callback):
    """Follows a run, also over interruptions; without codecarbon it does nothing.

    CO2 is that of the country in the environment variable CODECARBON_COUNTRY_ISO_CODE, by default of the world's average
    electricity: nobody is asked over a network where this machine stands.

    Attributes:
        spent: {"energy_kwh", "co2_kg"}, or {} where it is not measured.
    """

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._before: dict[str, float] = {}
        self._tracker: Any = None

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if importlib.util.find_spec("codecarbon") is None or not trainer.is_global_zero:
            return
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        from codecarbon import OfflineEmissionsTracker

        self._tracker = OfflineEmissionsTracker(
            save_to_file=False, log_level="critical", allow_multiple_runs=True, output_handlers=[self]
        )
        self._tracker.start()

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self._tracker is not None:
            self._tracker.stop()
            self._tracker = None

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, module)

    def state_dict(self) -> dict[str, float]:
        if self._tracker is not None:
            self._tracker.flush()
        return dict(self.spent)

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._before = self.spent = dict(state)

    def out(self, total: Any, delta: Any) -> None:
        """Codecarbon's call with what this process spent so far."""
        spent = {"energy_kwh": total.energy_consumed, "co2_kg": total.emissions}
        self.spent = {name: float(amount) + self._before.get(name, 0.0) for name, amount in spent.items()}

    def live_out(self, total: Any, delta: Any) -> None:
        """Codecarbon's call at every measurement; the sums above are enough."""

    def exit(self) -> None:
        """Codecarbon's call at the end."""
