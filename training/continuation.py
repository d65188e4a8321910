"""Continued pre-training: a run begins with what another one learned, on other data, and may replay a share of the old ones."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from conf import build, class_at, class_of
from datamodules.contract import Data
from datamodules.replay import Replay
from errors import BadInput
from models.encoder import Encoder
from models.export import load_encoder, load_pair
from models.pair import Pair
from models.weights import load_strictly
from objectives.objective import Objective
from training.checkpoint_files import newest_checkpoint
from training.configuration import read_config

SHAPE = ("image_size", "block_length", "max_length", "fixed_length", "isolate_documents", "num_sentinels", "start_token")
"""Settings of data that batches must agree in to be put together."""
WHAT = ("objective", "datamodule")
"""Names of the other run that `continued` keeps, so that nobody has to look there."""


def resolve(settings: dict[str, Any], words: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings of a new run with the model of the run in `model.init`, if there is one, and what that run was.

    Args:
        words: of the command line; what they say of the model must be true of the other run.

    Raises:
        BadInput: `model.init` is no run, other words contradict it, or `replay` is no share or has nothing to replay.
    """
    init, share = settings["model"].get("init"), settings.get("replay", 0.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise BadInput(f"replay={share} must be a share of every batch, from 0 to below 1")
    if share and "label" in class_of("objective", settings["names"]["objective"]).needs:
        name = settings["names"]["objective"]
        raise BadInput(f"replay={share} mixes data whose labels mean other things; {name} needs them")
    if init is None:
        if share:
            raise BadInput(f"replay={share} replays the data of the run in model.init=<run folder>, and none is given")
        return settings
    if not isinstance(init, str):
        raise BadInput(f"model.init must be a run folder, not {init!r}")
    before = read_config(Path(init))
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        part = key.removeprefix("model.")
        told, true = _at(settings["model"], part), _at(before["model"], part)
        if key == "model":
            told, true = value, before["names"]["model"]
        if (key == "model" or (key.startswith("model.") and part != "init")) and told != true:
            raise BadInput(f"{word} contradicts model.init={init}, which says that {key} is {true}; leave one out")
        told, true = settings["datamodule"].get("image_size"), before["datamodule"].get("image_size")
        if key == "datamodule.image_size" and true is not None and told != true:
            raise BadInput(f"{word} contradicts model.init={init}, whose pictures have {true} px; leave it out")
    return settings | {
        "names": settings["names"] | {"model": before["names"]["model"]},
        "model": before["model"] | {"init": init},
        "continued": {name: before["names"][name] for name in WHAT},
    }


def _at(settings: Any, path: str) -> Any:
    """What stands at a dotted path, None where nothing does."""
    for name in path.split("."):
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings


@dataclass(frozen=True)
class Start:
    """What a run begins with: fresh weights, or with `model.init` those of another run.

    Attributes:
        names: the choices of objective, model and data set.
        model, datamodule: their settings.
        origin: the other run's folder, or None; it is read only where its weights or data are wanted.
        before: what the other run was: the names of its objective and data.
        share: of every batch that comes from the other run's data.
    """

    names: dict[str, str]
    model: dict[str, Any]
    datamodule: dict[str, Any]
    origin: Path | None = None
    before: dict[str, str] = field(default_factory=dict)
    share: float = 0.0

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Start":
        """What a resolved configuration says.

        Raises:
            BadInput: it does not say what the other run was.
        """
        model = {key: value for key, value in config["model"].items() if key != "init"}
        init, before = config["model"].get("init"), config.get("continued")
        if init is None:
            return cls(config["names"], model, config["datamodule"])
        if not isinstance(before, dict) or not all(isinstance(before.get(name), str) for name in WHAT):
            raise BadInput(f"the configuration does not say what the run in model.init={init} was: 'continued' is {before!r}")
        return cls(config["names"], model, config["datamodule"], Path(init), before, config.get("replay", 0.0))

    @property
    def label(self) -> str:
        """The model's name in records and tables, which a continued run does not share with what it began with."""
        if self.origin is None:
            return self.names["model"]
        replayed = f", {100 * self.share:g} % replayed" if self.share else ""
        return f"{self.names['model']} from {self.before['objective']} on {self.before['datamodule']}{replayed}"

    @property
    def record(self) -> dict[str, Any]:
        """What a result says of it; {} of fresh weights."""
        if self.origin is None:
            return {}
        return {"continued_from": str(self.origin), "continued_data": self.before["datamodule"], "replay": self.share}

    @cached_property
    def learned(self) -> Encoder | Pair | None:
        """The other run's encoder or encoders."""
        if self.origin is None:
            return None
        return load_pair(self.origin) if (self.origin / "pair.json").is_file() else load_encoder(self.origin)

    def open_data(self) -> Data:
        """The data, shaped as the weights need them, with the share of the old ones.

        Raises:
            BadInput: the two cannot be in one batch.
        """
        if self.origin is None:
            return build(self.datamodule)
        data = open_for(self.learned, self.datamodule)
        if not self.share:
            return data
        agreed = {key: self.datamodule[key] for key in SHAPE if key in self.datamodule}
        old = {key: agreed.get(key, value) for key, value in read_config(self.origin)["datamodule"].items()}
        return Replay(data, open_for(self.learned, old), self.share)

    def build_encoder(self, spec: Any) -> Encoder:
        """The encoder, with the other run's weights where there is one."""
        encoder = build(self.model, spec=spec)
        if self.learned is not None:
            known = self.learned.image_encoder if isinstance(self.learned, Pair) else self.learned
            load_strictly(encoder.net, known.exported()[0], f"model.init={self.origin}")
            encoder.pretrained = True
        return encoder

    def load_heads(self, objective: Objective) -> bool:
        """Go on with the heads and teachers of the same objective with the same settings; whether there were any."""
        if self.origin is None or self.names["objective"] != self.before["objective"]:
            return False
        if not any(path.is_file() for path in (self.origin / "checkpoints").glob("*.ckpt")):
            return False
        state = newest_checkpoint(self.origin)[1]["state_dict"]
        state = {key.removeprefix("objective."): value for key, value in state.items()}
        shapes = {key: value.shape for key, value in objective.state_dict().items()}
        if shapes != {key: value.shape for key, value in state.items()}:
            return False
        objective.load_state_dict(state)
        return True

    def described(self, with_heads: bool) -> str | None:
        """One line: what was taken over, and what is replayed; None with fresh weights."""
        if self.origin is None:
            return None
        taken = "encoder and heads" if with_heads else "encoder"
        replayed = f"; {100 * self.share:g} % of every batch replayed from {self.before['datamodule']}" if self.share else ""
        return f"with {taken} of {self.origin}{replayed}"


def open_for(learned: Encoder | Pair, settings: dict[str, Any]) -> Data:
    """A data set in the shape that an encoder, or a pair, reads: its picture size, its vocabulary."""
    found = class_at(settings["_target_"]).modality
    settings, late = dict(settings), {}
    if isinstance(learned, Pair):
        settings["image_size"] = learned.image_encoder.image_size
        if found == "image_text":
            late["tokenizer"] = learned.text_encoder.vocabulary
    elif learned.modality == "text":
        late["tokenizer"] = learned.vocabulary
    else:
        settings["image_size"] = learned.image_size
    return build({name: value for name, value in settings.items() if name not in late}, **late)
