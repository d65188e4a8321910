"""The runs behind transfer results: where they lie, how they were configured, and what their event files hold."""

import json
import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from conf.recall import finetune_command, train_command
from errors import BadInput
from reports.events import Events, read_events
from reports.result import Result, read_result
from reports.rows import baseline_first
from reports.scores import model, objective

SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where libyaml is there


@dataclass
class Transfer:
    """A transfer result with the command that makes it; `exact` unless its config.yaml was not found."""

    result: Result
    command: str
    exact: bool


@dataclass
class Run:
    """A pre-training run, or a random initialisation, with everything that was tested on it.

    Attributes:
        anchor: its id on the page.
        objective, model, data, seed: of the run.
        folder: where it lies; None for random initialisation and where it is gone.
        config: of its config.yaml; {} without one.
        record: its own result; None without one.
        command: that gives it again; None for random initialisation.
        exact: whether the command comes from the configuration, and not from what the transfer record says.
        events: scalars, pictures and texts that it logged.
        transfers: its tests.
    """

    anchor: str
    objective: str
    model: str
    data: str
    seed: int
    folder: Path | None = None
    config: dict[str, Any] = field(default_factory=dict)
    record: Result | None = None
    command: str | None = None
    exact: bool = False
    events: Events = field(default_factory=Events)
    transfers: list[Transfer] = field(default_factory=list)

    @property
    def test(self) -> Result:
        """The first of its tests, whose record also says what the run was."""
        return self.transfers[0].result

    @property
    def spent(self) -> dict[str, float]:
        """What pre-training cost, by its own record or by that of a transfer."""
        if self.record is not None:
            return self.record.budget_spent | {"seconds": self.record.seconds}
        return self.test.budget_spent


def find_runs(results: Iterable[Result], folder: Path) -> list[Run]:
    """The runs of these results, in the order of the table.

    Args:
        folder: below which results and runs are looked for, where they are not at the path that the record gives.
    """
    configured = sorted(path.parent for path in folder.rglob("config.yaml"))
    tests = _tests_below(configured)
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        place = os.path.realpath(run_path(result))
        key = baseline_first(objective(result)), model(result), result.data, result.seed, place
        groups.setdefault(key, []).append(result)
    runs = []
    for number, key in enumerate(sorted(groups), start=1):
        found = groups[key]
        run = Run(f"run-{number}", found[0].objective, found[0].model, found[0].data, found[0].seed)
        if run.objective != "random":
            _open(run, run_path(found[0]), configured)
        run.transfers = [_transfer(result, tests.get(_same(result))) for result in found]
        runs.append(run)
    return runs


def run_path(result: Result) -> Path:
    """The run folder that a transfer record names, by itself or by a file in it."""
    path = Path(result.transfer["checkpoint"])
    if path.name in ("encoder.safetensors", "encoder.json"):
        return path.parent
    return path.parent.parent if path.parent.name == "checkpoints" else path


def locate(path: Path, configured: Iterable[Path]) -> Path | None:
    """The run folder `path`, or where results were moved or copied, the only one whose path ends most like it."""
    if (path / "config.yaml").is_file():
        return path

    def in_common(folder: Path) -> int:
        equal = (a == b for a, b in zip(reversed(path.parts), reversed(folder.resolve().parts), strict=False))
        return sum(1 for _ in takewhile(bool, equal))

    found = [(in_common(folder), folder) for folder in configured]
    most = max((num for num, _ in found), default=0)
    best = [folder for num, folder in found if num == most]
    return best[0] if most and len(best) == 1 else None


def _open(run: Run, path: Path, configured: list[Path]) -> None:
    """Fill in what lies in the run's folder; a folder of another run is not taken for it."""
    folder = locate(path, configured)
    config = read_settings(folder) if folder else {}
    names = config["names"] if isinstance(config.get("names"), dict) else {}
    record, found = None, (names.get("objective"), names.get("model"), config.get("seed"))
    if config:
        with suppress(BadInput):
            record = read_result(folder / "result.json")
            found = record.objective, record.model, record.seed  # a continued run has its model from another one
    if found == (run.objective, run.model, run.seed):
        run.folder, run.config, run.events, run.record = folder, config, read_events(folder / "tensorboard"), record
        with suppress(BadInput):
            run.command, run.exact = train_command(config), True
    if run.command is None:
        words = [f"objective={run.objective}", f"model={run.model}", f"datamodule={run.data}", f"seed={run.seed}"]
        run.command = shlex.join(["python", "train.py", *words])


def _transfer(result: Result, folder: Path | None) -> Transfer:
    protocol, checkpoint = result.transfer["protocol"], result.transfer["checkpoint"]
    config = read_settings(folder) if folder else {}
    if config:
        with suppress(BadInput):
            return Transfer(result, finetune_command(config, protocol, checkpoint), True)
    words = [f"checkpoint={checkpoint}", f"transfer={protocol}", f"label_fraction={result.transfer['label_fraction']:g}"]
    return Transfer(result, shlex.join(["python", "finetune.py", *words, f"seed={result.transfer['seed']}"]), False)


def _tests_below(configured: Iterable[Path]) -> dict[str, Path]:
    """Record -> folder of the transfer runs."""
    found = {}
    for folder in configured:
        try:
            result = read_result(folder / "result.json")
        except BadInput:  # collected and listed already, or a run that did not finish
            continue
        if result.transfer is not None:
            found[_same(result)] = folder
    return found


def _same(result: Result) -> str:
    record = asdict(result)
    record["transfer"].pop("apart", None)
    return json.dumps(record, sort_keys=True)


def read_settings(folder: Path) -> dict[str, Any]:
    """The config.yaml of a run; {} where it is missing or damaged: the page then says less."""
    try:
        config = yaml.load((folder / "config.yaml").read_text(encoding="utf-8"), SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}
