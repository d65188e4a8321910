"""What makes two runs the same, and which finished ones lie below a folder.

A run is its resolved configuration without what is only speed (`trainer`), only looked at (`monitor`), or only a place. So a
finished run counts wherever it came from: an earlier plan, `train.py`, or a sweep of it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from conf.targets import class_at
from errors import BadInput
from reports.result import read_result
from transfer.protocol import takes_pair

# of a pre-training run; the budget is added again
NOT_LEARNED = ("trainer", "monitor", "resume", "continued", "budget", "trial_flops")
PLACES = ("cache",)  # of a data set; where it lies decides what it is, so `root` and `files` count


def run_identity(config: dict[str, Any]) -> dict[str, Any]:
    """What a pre-training run with this configuration learns from."""
    asked = {unit: amount for unit, amount in config["budget"].items() if amount is not None}
    kept = {name: value for name, value in config.items() if name not in NOT_LEARNED}
    if config["model"].get("init") is not None:  # it says which model there is, whatever was chosen beside it
        names = {group: name for group, name in config["names"].items() if group != "model"}
        kept |= {"model": {"init": config["model"]["init"]}, "names": names}
    return _plain(kept | {"budget": asked or {"flops": config["trial_flops"]}})


def transfer_identity(settings: dict[str, Any], source: dict[str, Any] | None) -> dict[str, Any]:
    """What a transfer with this configuration measures.

    Args:
        source: identity of the pre-training run; None is random initialisation of the configured model.
    """
    if source is None:
        fresh_pair = takes_pair(class_at(settings["transfer"]["_target_"]))
        source = {"model": settings["model"]} | ({"text_model": settings["text_model"]} if fresh_pair else {})
    return _plain(
        {
            "source": source,
            "datamodule": settings.get("datamodule") or source.get("datamodule"),
            "transfer": settings["transfer"],
            "label_fraction": settings["label_fraction"],
            "seed": settings["seed"],
        }
    )


def key_of(identity: Any) -> str:
    """A short name of it, for folders and for comparing."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    """The same whether it was just composed or was written and read: numbers by value, lists, no places."""
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items() if name not in PLACES}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Shelf:
    """The finished runs below a folder.

    Attributes:
        folders: key -> folder of a finished run, pre-training or transfer.
        broken: one line for each result that cannot be read.
    """

    def __init__(self, folder: Path):
        self.folders: dict[str, Path] = {}
        self.broken: list[str] = []
        for path in sorted(folder.rglob("result.json")):
            try:
                result = read_result(path)
            except BadInput as error:
                self.broken.append(str(error))
                continue
            identity = _identity_of(path.parent, result.transfer)
            if identity is not None and (result.transfer is not None or has_encoder(path.parent)):
                self.folders.setdefault(key_of(identity), path.parent)


def _identity_of(folder: Path, transfer: dict[str, Any] | None) -> dict[str, Any] | None:
    """Of a finished run; None where its configuration is gone or older than what is compared."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        if transfer is None:
            return run_identity(config)
        if transfer["checkpoint"] == "none":
            return transfer_identity(config, None)
        source = yaml.safe_load((Path(transfer["checkpoint"]) / "config.yaml").read_text(encoding="utf-8"))
        return transfer_identity(config, run_identity(source))
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, BadInput):
        return None


def has_encoder(folder: Path) -> bool:
    """Whether a run left an encoder, or two towers."""
    return any(folder.glob("*encoder.json"))
