"""The record of what an encoder was worth."""

import os
from pathlib import Path
from typing import Any

import yaml

from conf import read_choice
from conf.pasted import command_line, from_start
from datamodules.contract import Task
from models.encoder import Encoder
from models.pair import Pair
from reports.result import Result
from training.memory import peak_memory_bytes
from training.record import git_commit, versions
from transfer.kept import Kept
from transfer.protocol import TransferProtocol, labels_learned_from
from transfer.source import Source

WHICH = (
    "root", "files", "val_files", "test_files", "shards", "val_shards", "test_shards", "task", "text", "text_pair", "label",
    "caption", "classes", "templates", "val_fraction", "test_fraction", "split_seed", "skin_tones",
)  # fmt: skip
"""Settings of data that say which samples and labels there are; the others say how an encoder reads them."""


def finish(
    folder: Path,
    settings: dict[str, Any],
    choices: dict[str, str | None],
    source: Source,
    protocol: TransferProtocol,
    data: Task,
    model: Encoder | Pair,
    metrics: dict[str, float | str],
    seconds: float,
    kept: Kept,
    resolved: dict[str, Any],
) -> float:
    """Write `config.yaml` and `result.json`, print what was found; returns the test score."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    name, metric = choices["transfer"], getattr(protocol, "metric", data.spec.selection)
    num_labels = labels_learned_from(protocol, data)
    result = Result(
        kind="transfer",
        objective=source.objective,
        model=source.model,
        data=source.data or data.spec.name,
        seed=source.seed if source.seed is not None else settings["seed"],
        budget_spent=source.cost,
        parameters={"encoder": sum(weight.numel() for weight in model.parameters())},
        seconds=seconds + kept.seconds,
        peak_memory_bytes=max(peak_memory_bytes(), kept.peak_memory_bytes),
        metrics=metrics,
        settings=resolved | ({"shared_seconds": kept.seconds} if kept.seconds else {}),
        versions=versions(),
        git_commit=git_commit(),
        transfer={
            "protocol": name,
            "settings": {key: value for key, value in settings["transfer"].items() if not key.startswith("_")},
            "data": data.spec.name,
            "data_settings": which_data(*source.data_settings(settings.get("datamodule"), choices.get("datamodule"), protocol)),
            "model_settings": source.recorded_model(protocol),
            "pretraining_settings": which_data(*source.pretraining_data) if source.config else {},
            "label_fraction": settings["label_fraction"],
            "metric": metric,
            "num_labels": num_labels,
            "num_test": data.splits["test"].num,
            "seed": settings["seed"],
            "checkpoint": source.name,
            **source.continued,
            **({"built_on": before} if (before := source.built_on) else {}),
        },
    )
    path = result.write(folder)
    print(f"{name} of {source.objective} ({source.name}) on {data.spec.name}, {num_labels} labels: {shown(metrics)}")
    shared = f", and {kept.seconds:.1f} s of reading that an earlier job did" if kept.seconds else ""
    print(f"{seconds:.1f} s{shared}  result: {from_start(path)}")
    print(f"next: {command_line('compare.py', report=settings['outputs'])}")
    return metrics[metric]


def shown(metrics: dict[str, float | str]) -> str:
    """Metrics in one line, each with its chance level where it has one."""
    parts = []
    for key, value in metrics.items():
        if not key.startswith("chance_"):
            chance = f" (chance {metrics[f'chance_{key}']:.4g})" if f"chance_{key}" in metrics else ""
            parts.append(f"{key} {value if isinstance(value, str) else f'{value:.4g}'}{chance}")
    return "  ".join(parts)


def which_data(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """Of a data module's settings those that decide which samples are judged on.

    A `root` that need not be given is only the place of a collection that has a name; another one says which data there are,
    wherever the command was started.
    """
    usual = read_choice("datamodule", name)
    kept = {key: settings[key] for key in WHICH if key in settings}
    if usual.get("root") != "???":
        kept.pop("root", None)
    return kept | ({"root": os.path.realpath(kept["root"])} if kept.get("root") else {})
