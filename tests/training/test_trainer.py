"""What ends a fit is said."""

import signal

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from errors import RunStopped
from training.trainer import fit


def test_sigterm_that_lightning_took_is_no_success():
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)

    def ended(*_, **__):
        raise SIGTERMException

    trainer.fit = ended
    with pytest.raises(RunStopped, match="stopped by SIGTERM") as caught:
        fit(trainer, L.LightningModule(), [{"index": torch.zeros(1)}])
    assert caught.value.exit_code == 128 + signal.SIGTERM
