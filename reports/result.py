"""The result record: one JSON file a run, with a version of its own. `docs/result.md` explains every field."""

import json
import os
import types
import typing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from errors import BadInput

SCHEMA = 1


class NewerRecord(BadInput):
    """A record that a newer version of this project wrote; it must not be written over."""


@dataclass
class Result:
    """What was run, on what, for how much, how good, and with which versions.

    Attributes:
        kind: "pretrain" or "transfer".
        status: "finished" (others are reserved).
        objective, model, data: names as on the command line; for transfer, those of the pre-training run.
        seed: of the run.
        budget_asked: {"unit", "amount"}.
        budget_spent: {"steps", "samples", "epochs", "flops"}.
        parameters: {"encoder", "total"}: how many numbers are in the encoder, and in everything that was trained.
        samples_per_second: of training, waiting for data included, monitors left out.
        seconds: wall-clock time of training, or of the whole protocol.
        peak_memory_bytes: of the process, without earlier jobs of its sweep.
        metrics: name -> number, or the name of what was chosen; accuracies are shares in [0, 1].
        settings: what every `auto` became, and counts of skipped samples.
        versions, git_commit: of packages and code.
        transfer: for kind "transfer": {"protocol", "data", "label_fraction", "num_labels", "checkpoint", ...}.
    """

    kind: str
    objective: str
    model: str
    data: str
    seed: int
    budget_asked: dict[str, Any] = field(default_factory=dict)
    budget_spent: dict[str, float | None] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    samples_per_second: float | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    metrics: dict[str, float | str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    transfer: dict[str, Any] | None = None
    status: str = "finished"
    schema: int = SCHEMA

    def write(self, folder: Path) -> Path:
        """Write `result.json`; it appears whole or not at all."""
        path = folder / "result.json"
        part = folder / "result.json.part"
        part.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
        return path


def read_result(path: Path) -> Result:
    """Read a `result.json`.

    Raises:
        BadInput: cut, not a result, or with something in it that is no number, text or group where one must be.
        NewerRecord: of a newer schema.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"'{path}' cannot be read: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise BadInput(f"'{path}' is not a result record")
    if record["schema"] > SCHEMA:
        raise NewerRecord(f"'{path}' has schema {record['schema']}, this version reads up to {SCHEMA}")
    try:
        result = Result(**record)
    except TypeError as error:
        raise BadInput(f"'{path}' is not a result record: {error}") from error
    for name, hint in HINTS.items():
        if not _is(getattr(result, name), hint):
            raise BadInput(f"'{path}' is not a result record: its {name} cannot be {str(getattr(result, name))[:60]!r}")
    return result


HINTS = typing.get_type_hints(Result)


def _is(value: Any, hint: Any) -> bool:
    """Whether JSON gave what the field is; unlike in a configuration a number may be NaN, which a collapsed run can measure."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is types.UnionType:
        return any(_is(value, choice) for choice in inner)
    if origin is dict:
        return isinstance(value, dict) and all(_is(part, inner[1]) for part in value.values())
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return isinstance(value, hint)
