"""What a configuration may build, and what not."""

import pytest

from conf import CONF, build, check_targets
from errors import BadInput


@pytest.mark.parametrize(
    "target",
    ["os.system", "builtins.eval", "torch.os.system", "torch.load", "training.run.subprocess.run", "nowhere.Thing", 7, "AdamW"],
)
def test_what_is_no_class_of_known_libraries_is_refused_and_not_run(target, tmp_path):
    witness = tmp_path / "witness"
    node = {"_target_": "torch.optim.AdamW", "inside": [{"_target_": target, "command": f"touch {witness}"}]}
    with pytest.raises(BadInput, match="_target_ '.*' (is refused|does not exist)") as error:
        build(node)
    assert "\n" not in str(error.value)
    assert not witness.exists()


def test_a_class_that_is_not_there_is_named():
    with pytest.raises(BadInput, match="_target_ 'torch.optim.AdamV' does not exist"):
        check_targets({"_target_": "torch.optim.AdamV"})


def test_every_file_in_conf_builds_only_what_it_may():
    import yaml

    files = [
        path
        for group in ("objective", "model", "datamodule", "optimizer", "transfer")
        for path in (CONF / group).glob("*.yaml")
    ]
    assert len(files) > 60
    for path in files:
        check_targets(yaml.safe_load(path.read_text()))
