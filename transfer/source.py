"""Where the encoder that is judged comes from, and the record of what it was worth."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from conf import build, choices_of, read_choice
from conf.targets import class_at
from datamodules.contract import Task
from errors import BadInput
from models.encoder import Encoder
from models.export import build_encoder, load_encoder
from reports.result import Result, read_result
from training.checkpoint_files import read_checkpoint
from training.fitting import modality
from training.run import git_commit, peak_memory_bytes, read_config, versions

LABELLED_TEXT = "datamodule=text_classification, glue or kjv"
USUAL_MODEL = {"image": "vit_t", "text": "bert_mini"}
RANDOM = "random"  # the name of the baseline in results and tables


@dataclass(frozen=True)
class Source:
    """An encoder with its history.

    Attributes:
        name: the checkpoint as given, or "none".
        objective, model, seed: of the pre-training run; "random" where there was none.
        data: the data set's name that the run was trained on, or None.
        encoder: loaded, or None where it is still to be built from `model_settings`.
        config: the pre-training run's configuration.
        cost: what pre-training cost: seconds, FLOPs, samples.
    """

    name: str
    objective: str
    model: str
    seed: int | None = None
    data: str | None = None
    encoder: Encoder | None = None
    model_settings: dict[str, Any] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)

    @classmethod
    def find(
        cls, checkpoint: str, outputs: str, model_settings: dict[str, Any] | None, model: str | None, kind: str
    ) -> "Source":
        """The setting `checkpoint`: a run folder, a checkpoint file, "latest", or "none".

        Args:
            model_settings, model: the config node `model` and its name, for "none".
            kind: modality of the data, which decides on the usual model for "none".

        Raises:
            BadInput: there is no such thing, it cannot be read, or it holds no encoder.
        """
        if checkpoint == "none":
            if model_settings is None:
                model = USUAL_MODEL[kind]
                model_settings = read_choice("model", model)
            return cls("none", RANDOM, model, model_settings=model_settings)
        if model_settings is not None:
            raise BadInput("the checkpoint says which model it holds; model= goes with checkpoint=none only")
        path = newest_run(Path(outputs)) if checkpoint == "latest" else Path(checkpoint)
        if path.is_dir():
            return cls._from_run(path)
        if path.is_file():
            return cls._from_file(path)
        raise BadInput(f"checkpoint='{checkpoint}' is neither a run folder, nor a checkpoint file, nor latest or none")

    @classmethod
    def _from_run(cls, folder: Path) -> "Source":
        config, encoder = read_config(folder), load_encoder(folder)
        cost: dict[str, float] = {}
        if (folder / "result.json").is_file():
            record = read_result(folder / "result.json")
            cost = {**record.budget_spent, "seconds": record.seconds}
        return cls._of_config(str(folder), config, encoder, cost)

    @classmethod
    def _from_file(cls, path: Path) -> "Source":
        if path.name in ("encoder.safetensors", "encoder.json"):
            return cls._from_run(path.parent)
        checkpoint = read_checkpoint(path)
        prefix = "objective.encoder.net."
        weights = {
            name.removeprefix(prefix): tensor for name, tensor in checkpoint["state_dict"].items() if name.startswith(prefix)
        }
        recorded = checkpoint["headstart"]
        return cls._of_config(str(path), recorded["config"], build_encoder(recorded["encoder"], weights), {})

    @classmethod
    def _of_config(cls, name: str, config: dict, encoder: Encoder, cost: dict[str, float]) -> "Source":
        names = config["names"]
        return cls(name, names["objective"], names["model"], config["seed"], names["datamodule"], encoder, None, config, cost)

    def open_task(self, given: dict[str, Any] | None) -> Task:
        """The labelled data to be judged on: as given, else the run's own; shaped as the encoder takes them.

        Raises:
            BadInput: of another modality than the encoder, or without labels.
        """
        if given is None and not self.config:
            given = read_choice("datamodule", "emoji")
        settings = dict(given if given is not None else self.config["datamodule"])
        encoded = self.encoder.modality if self.encoder is not None else class_at(self.model_settings["_target_"]).modality
        found = class_at(settings["_target_"]).modality
        if found != encoded:
            fitting = [choice for choice in choices_of("datamodule") if modality("datamodule", choice) == encoded]
            raise BadInput(
                f"model={self.model} is for {encoded}, the data for {found}; datamodules that fit: {', '.join(fitting)}"
            )
        late: dict[str, Any] = {}
        if encoded == "text" and self.encoder is not None:
            late["tokenizer"] = self.encoder.vocabulary
        elif self.encoder is not None:
            settings["image_size"] = self.encoder.image_size
        data = build({name: value for name, value in settings.items() if name not in late}, **late)
        if data.task is None:
            raise BadInput(f"data set '{data.spec.name}' has no labels; transfer needs a labelled one: {LABELLED_TEXT}")
        return data.task


def newest_run(outputs: Path) -> Path:
    """The pre-training run that finished last.

    Raises:
        BadInput: there is none.
    """
    encoders = sorted(outputs.rglob("encoder.json"), key=lambda path: path.stat().st_mtime)
    if not encoders:
        raise BadInput(f"there is no finished run in '{outputs}' yet; start one: python train.py objective=mae")
    return encoders[-1].parent


def finish(
    folder: Path,
    settings: dict[str, Any],
    choices: dict[str, str | None],
    source: Source,
    data: Task,
    encoder: Encoder,
    metrics: dict[str, float | str],
    seconds: float,
    resolved: dict[str, str],
) -> float:
    """Write `config.yaml` and `result.json`, print what was found; returns the test score."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    protocol = choices["transfer"]
    result = Result(
        kind="transfer",
        objective=source.objective,
        model=source.model,
        data=source.data or data.spec.name,
        seed=source.seed if source.seed is not None else settings["seed"],
        budget_spent=source.cost,
        parameters={"encoder": sum(weight.numel() for weight in encoder.parameters())},
        seconds=seconds,
        peak_memory_bytes=peak_memory_bytes(),
        metrics=metrics,
        settings=resolved,
        versions=versions(),
        git_commit=git_commit(),
        transfer={
            "protocol": protocol,
            "data": data.spec.name,
            "label_fraction": settings["label_fraction"],
            "metric": data.spec.selection,
            "num_labels": data.num_labels,
            "num_test": data.splits["test"].num,
            "seed": settings["seed"],
            "checkpoint": source.name,
        },
    )
    path = result.write(folder)
    shown = "  ".join(f"{name} {value}" if isinstance(value, str) else f"{name} {value:.4g}" for name, value in metrics.items())
    print(f"{protocol} of {source.objective} ({source.name}) on {data.spec.name}, {data.num_labels} labels: {shown}")
    print(f"{seconds:.1f} s  result: {path}")
    print(f"next: python compare.py report={settings['outputs']}")
    return metrics[data.spec.selection]
