"""Whether a run that was interrupted ended where the uninterrupted one did, bit for bit."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reports.result import read_result
from training.checkpoint_files import read_checkpoint

TIMES = {"seconds", "paused", "energy_kwh", "co2_kg"}  # may differ


def differences(found: Path, expected: Path) -> list[str]:
    """What differs between two finished run folders, times aside."""
    wrong = []
    for path in sorted(expected.rglob("*.safetensors")):
        ours, theirs = load_file(found / path.relative_to(expected)), load_file(path)
        wrong += [f"{path.name}: {name}" for name in theirs if not torch.equal(ours[name], theirs[name])]
    last = [read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (found, expected)]
    wrong += _unlike(*last)
    results = [read_result(folder / "result.json").metrics for folder in (found, expected)]
    wrong += _unlike(*results, "metrics")
    wrong += _unlike(*(logged(folder) for folder in (found, expected)), "tensorboard")
    return wrong


def logged(folder: Path) -> dict[str, dict[int, float]]:
    """Scalar -> step -> value, as TensorBoard shows them; how fast the run was is left out."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = sorted(tag for tag in events.Tags()["scalars"] if not tag.startswith("throughput/"))
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in tags}


def _unlike(ours: Any, theirs: Any, name: str = "checkpoint") -> list[str]:
    if isinstance(theirs, dict):
        if not isinstance(ours, dict) or set(ours) != set(theirs):
            return [f"{name} has other names"]
        return [
            line
            for key, value in theirs.items()
            if key not in TIMES | {"config"}
            for line in _unlike(ours[key], value, f"{name}.{key}")
        ]
    if isinstance(theirs, list | tuple):
        if len(ours) != len(theirs):
            return [f"{name} is {len(ours)} long, not {len(theirs)}"]
        return [line for i, pair in enumerate(zip(ours, theirs, strict=True)) for line in _unlike(*pair, f"{name}[{i}]")]
    same = torch.equal(ours, theirs) if isinstance(theirs, torch.Tensor) else ours == theirs or ours != ours
    return [] if same else [f"{name} is {ours}, not {theirs}"]
