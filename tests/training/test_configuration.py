"""The settings with which a run goes on: its own, but for what is typed."""

import pytest
import yaml

from training.configuration import NODES, gone_on_with

RECORDED = {node: {} for node, kind in NODES.items() if kind is dict} | {"seed": 3, "trial_flops": 1.0}
RECORDED["names"] = {"objective": "mae", "model": "vit_t", "datamodule": "emoji"}
RECORDED["trainer"] = {"precision": "fp32", "accumulate": 8, "strategy": "ddp", "devices": 2}
RECORDED["monitor"] = {"times": 0}
AUTO = {"precision": "auto", "accumulate": 1, "strategy": "auto", "devices": 1, "workers": 0}  # workers: newer than the run
COMPOSED = RECORDED | {"seed": 0, "trainer": AUTO, "monitor": {"times": 4}}


@pytest.mark.parametrize(
    ("words", "composed", "trainer", "times"),
    [
        (["resume=run"], {}, RECORDED["trainer"] | {"workers": 0}, 0),
        (["trainer.accumulate=2"], {"accumulate": 2}, RECORDED["trainer"] | {"accumulate": 2, "workers": 0}, 0),
        (["trainer=cpu"], {"precision": "bf16"}, AUTO | {"precision": "bf16"}, 0),
        (["+trainer.workers=3", "++monitor.times=4"], {"workers": 3}, RECORDED["trainer"] | {"workers": 3}, 4),
        (["monitor={times:4}"], {}, RECORDED["trainer"] | {"workers": 0}, 4),
    ],
)
def test_a_run_goes_on_with_its_own_speed_but_for_what_is_typed(tmp_path, words, composed, trainer, times):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(RECORDED))
    config = COMPOSED | {"trainer": AUTO | composed}
    found = gone_on_with(config, tmp_path, words)
    assert found == config | {"trainer": trainer, "monitor": {"times": times}}
