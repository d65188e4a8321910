"""A command hardly looks for garbage while it imports; when it trains, as often as Python does, in what came since."""

import gc
import sys

from torch import nn

from conf import collector
from conf.command import answered
from models.encoder import Encoder
from training.trainer import prepare_speed


def test_a_command_collects_rarely_until_it_trains(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    collector.collect_as_usual()  # whatever commands this process ran before
    thresholds = []

    @answered
    def main() -> None:
        thresholds.append(gc.get_threshold())
        prepare_speed(
            nn.ModuleList([Encoder()]), {"accelerator": "cpu", "precision": "fp32", "attention": "auto", "workers": 0}
        )
        thresholds.append(gc.get_threshold())

    gc.unfreeze()
    main()
    frozen = gc.get_freeze_count()
    collector.collect_as_usual()  # of a second run in this process: what the first one left can still be collected
    assert 0 < gc.get_freeze_count() <= frozen  # fewer where what was frozen is no longer used
    gc.unfreeze()  # as other tests of this process found it
    assert thresholds[0][0] == collector.OBJECTS > 10 * collector.USUAL[0]
    assert thresholds[1] == collector.USUAL
