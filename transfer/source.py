"""Where the encoder that is judged comes from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conf import build, choices_of, class_at, class_of, modality, read_choice
from conf.pasted import command_line
from datamodules.contract import Data
from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder
from models.export import build_encoder, build_pair, load_encoder, load_pair
from models.pair import Pair
from reports.result import Result, read_result
from training.checkpoint_files import read_checkpoint
from training.configuration import read_config
from training.continuation import Start, open_for
from training.origins import built_on
from transfer.protocol import TransferProtocol, takes_pair

USUAL_MODEL = {"image": "vit_t", "text": "bert_mini", "image_text": "vit_t"}
READABLE = {  # model -> data
    "image": ("image", "image_text"),
    "text": ("text", "image_text"),
    "image_text": ("image_text", "image"),
}
IN_CHECKPOINT = {  # where an objective's state holds what it exports
    "encoder": "objective.encoder.net.",
    "image_encoder": "objective.encoder.net.",
    "text_encoder": "objective.text_encoder.net.",
    "pair": "objective.head.",
}
RANDOM = "random"  # the name of the baseline in results and tables


@dataclass(frozen=True)
class Source:
    """An encoder with its history.

    Attributes:
        name: the checkpoint as given, or "none".
        objective, model, seed: of the pre-training run; "random" where there was none.
        data: the data set's name that the run was trained on, or None.
        encoder: loaded, or None where it is still to be built from `model_settings`; of a pair the one for pictures.
        pair: loaded, or None where the run has none.
        text_model: the choice beside `model_settings`, where a pair is to be built.
        config: the pre-training run's configuration.
        cost: what pre-training cost: seconds, FLOPs, samples.
        continued: what it began with, where that was another run (`training.continuation.Start.record`).
    """

    name: str
    objective: str
    model: str
    seed: int | None = None
    data: str | None = None
    encoder: Encoder | None = None
    pair: Pair | None = None
    model_settings: dict[str, Any] | None = None
    text_model: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    continued: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def find(cls, settings: dict[str, Any], choices: dict[str, str | None], protocol: TransferProtocol) -> "Source":
        """The setting `checkpoint`: a run folder, a checkpoint file, "latest", or "none".

        Args:
            settings: the whole configuration; its `model` is for "none".
            choices: the names of its groups.
            protocol: must be given a pair, or an encoder.

        Raises:
            BadInput: there is no such thing, it cannot be read, or it does not hold what the protocol takes.
        """
        checkpoint, model_settings = settings["checkpoint"], settings.get("model")
        if checkpoint == "none":
            kind = modality("datamodule", choices["datamodule"]) if choices.get("datamodule") else "image"
            model = choices["model"] if model_settings is not None else USUAL_MODEL[kind]
            return cls(
                "none",
                RANDOM,
                model,
                model_settings=model_settings or read_choice("model", model),
                text_model=settings["text_model"],
            )
        if model_settings is not None:
            raise BadInput("the checkpoint says which model it holds; model= goes with checkpoint=none only")
        path = newest_run(Path(settings["outputs"])) if checkpoint == "latest" else Path(checkpoint)
        if path.is_dir():
            source = cls._from_run(path)
        elif path.is_file():
            source = cls._from_file(path)
        else:
            raise BadInput(f"checkpoint='{checkpoint}' is neither a run folder, nor a checkpoint file, nor latest or none")
        if takes_pair(protocol) and source.pair is None:
            fitting = [choice for choice in choices_of("transfer") if not takes_pair(class_of("transfer", choice))]
            raise BadInput(
                f"transfer={choices['transfer']} compares pictures with texts, and checkpoint='{checkpoint}' "
                f"(objective={source.objective}) has one encoder only; transfer choices that fit: {', '.join(fitting)}"
            )
        return source

    @classmethod
    def _from_run(cls, folder: Path) -> "Source":
        config = read_config(folder)
        if not any((folder / f"{name}.json").is_file() for name in ("pair", "encoder")):
            again = command_line("train.py", resume=folder)
            raise BadInput(f"run '{folder}' is not finished: it holds no encoder.json yet; {again} finishes it")
        learned = load_pair(folder) if (folder / "pair.json").is_file() else load_encoder(folder)
        record = read_result(folder / "result.json") if (folder / "result.json").is_file() else None
        return cls._of_config(str(folder), config, learned, record)

    @classmethod
    def _from_file(cls, path: Path) -> "Source":
        if path.suffix in (".safetensors", ".json"):
            return cls._from_run(path.parent)
        checkpoint = read_checkpoint(path)
        recorded, state = checkpoint["headstart"], checkpoint["state_dict"]
        parts = {
            name: (recorded[name], {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)})
            for name, prefix in IN_CHECKPOINT.items()
            if name in recorded
        }
        learned = build_pair(parts) if "pair" in parts else build_encoder(*parts["encoder"])
        return cls._of_config(str(path), recorded["config"], learned)

    @classmethod
    def _of_config(cls, name: str, config: dict, learned: Encoder | Pair, record: Result | None = None) -> "Source":
        learned.train()  # as a fresh one is: probes freeze it, and fine-tuning trains in the mode that it finds
        start = Start.of(config)
        pair = learned if isinstance(learned, Pair) else None
        return cls(
            name,
            start.names["objective"],
            start.label,
            config["seed"],
            record.data if record else start.names["datamodule"],
            encoder=learned if pair is None else pair.image_encoder,
            pair=pair,
            config=config,
            cost={**record.budget_spent, "seconds": record.seconds} if record else {},
            continued=start.record,
        )

    @property
    def built_on(self) -> dict[str, Any]:
        """What was learned before this run, and what that cost (`training.origins.built_on`)."""
        return built_on(self.config or {"model": self.model_settings})

    def data_settings(
        self, given: dict[str, Any] | None, choice: str | None, protocol: TransferProtocol
    ) -> tuple[dict[str, Any], str]:
        """(settings, name) of the data to be judged on: as given, else the run's own, else embedded ones."""
        if given is not None:
            return given, choice
        if self.config:
            return self.pretraining_data
        name = "emoji_captions" if takes_pair(protocol) else "emoji"
        return read_choice("datamodule", name), name

    @property
    def pretraining_data(self) -> tuple[dict[str, Any], str]:
        """(settings, name) of the data that the run was trained on."""
        return self.config["datamodule"], self.config["names"]["datamodule"]

    def open_data(self, given: dict[str, Any] | None, protocol: TransferProtocol) -> Data:
        """The data to be judged on: as given, else the run's own; shaped as the model takes them.

        Of pictures with captions text encoders are judged on the captions.

        Raises:
            BadInput: of another modality than the model.
        """
        settings, _ = self.data_settings(given, None, protocol)
        encoded = self.encoder.modality if self.encoder is not None else class_at(self.model_settings["_target_"]).modality
        readable = READABLE["image_text" if takes_pair(protocol) else encoded]
        found = class_at(settings["_target_"]).modality
        if found not in readable:
            fitting = [choice for choice in choices_of("datamodule") if modality("datamodule", choice) in readable]
            raise BadInput(
                f"model={self.model} is for {encoded}, the data for {found}; datamodules that fit: {', '.join(fitting)}"
            )
        learned = self.pair or self.encoder
        data = build(settings) if learned is None else open_for(learned, settings)
        return data.caption_task or data if (encoded, found) == ("text", "image_text") else data

    def read_as(self, settings: dict[str, Any], choices: dict[str, str | None], protocol: TransferProtocol) -> dict[str, Any]:
        """What decides, beside the weights, which features a protocol reads; {} where it reads none."""
        if not getattr(protocol, "reads", False):
            return {}
        return {
            "checkpoint": self.name,
            "model": self.recorded_model(protocol),
            "seed": settings["seed"] if self.objective == RANDOM else None,
            "data": self.data_settings(settings.get("datamodule"), choices.get("datamodule"), protocol),
            "trainer": settings["trainer"],
        }

    def recorded_model(self, protocol: TransferProtocol) -> dict[str, Any]:
        """The settings of the model; of a fresh pair with the text model beside it."""
        settings = self.model_settings or self.config["model"]
        kept = {key: value for key, value in settings.items() if not key.startswith("_") and key != "init"}
        fresh_pair = self.objective == RANDOM and takes_pair(protocol)
        return kept | ({"text_model": self.text_model} if fresh_pair else {})

    def model_for(self, protocol: TransferProtocol, opened: DataSpec, judged: DataSpec) -> Encoder | Pair:
        """What the protocol takes: loaded, or for "none" with fresh weights.

        Args:
            opened: of the whole data set, which a fresh pair is built for.
            judged: of the part of it that is judged on, which a fresh encoder is built for.

        Raises:
            BadInput: data without captions have no vocabulary to build a pair for.
        """
        if not takes_pair(protocol):
            return self.encoder or build(self.model_settings, spec=judged)
        if self.pair is not None:
            return self.pair
        if opened.vocabulary is None:
            raise BadInput(
                f"checkpoint=none builds a text model for the words of the data, and '{opened.name}' has none; "
                "fits: datamodule=emoji_captions"
            )
        settings = read_choice("objective", "clip") | {"text_model": self.text_model}
        return build(settings, encoder=build(self.model_settings, spec=opened), spec=opened).pair


def newest_run(outputs: Path) -> Path:
    """The pre-training run that finished last.

    Raises:
        BadInput: there is none.
    """
    written = [path for name in ("encoder.json", "pair.json") for path in outputs.rglob(name)]
    if not written:
        raise BadInput(f"there is no finished run in '{outputs}' yet; start one: {command_line('train.py', objective='mae')}")
    return max(written, key=lambda path: path.stat().st_mtime).parent
