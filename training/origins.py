"""What a run was built on: the runs, or the weights from elsewhere, that it began with or learned from, and what they cost."""

from pathlib import Path
from typing import Any

from errors import BadInput
from reports.result import read_result
from training.configuration import read_config

RUNS = ("teacher", "tokenizer", "text")
"""Settings of objectives that name a finished run."""
FROM_ELSEWHERE = ".pretrained"
COSTS = ("flops", "minutes")


def origins(config: dict[str, Any]) -> list[str]:
    """Of a configuration with `model` and `objective`: run folders, files of weights, "model.pretrained" for a library's."""
    model, objective = config.get("model") or {}, config.get("objective") or {}
    towers = {"model": model, "objective.text_settings": objective.get("text_settings") or {}}
    found = [model.get("init"), *(objective.get(name) for name in RUNS)]
    for node, settings in towers.items():
        weights = settings.get("pretrained")
        found.append(f"{node}{FROM_ELSEWHERE}" if weights is True else weights)
    return list(dict.fromkeys(origin for origin in found if isinstance(origin, str)))


def built_on(config: dict[str, Any]) -> dict[str, Any]:
    """{"from": its `origins`, "flops", "minutes": what these cost, with what they in turn were built on}; {} of fresh weights.

    A cost is None where something came from elsewhere than a run, or a run's record is gone: then nobody knows it.
    """
    begun = origins(config)
    if not begun:
        return {}
    spent: dict[Path, dict[str, float | None]] = {}
    try:
        for origin in begun:
            _collect(origin, spent)
    except BadInput:
        return {"from": begun, **dict.fromkeys(COSTS)}
    sums = {name: [each.get(name) for each in spent.values()] for name in COSTS}
    return {"from": begun, **{name: None if None in costs else sum(costs) for name, costs in sums.items()}}


def _collect(origin: str, spent: dict[Path, dict[str, float | None]]) -> None:
    """Add what a run spent, and the runs before it, each once.

    Raises:
        BadInput: it is no run with a record.
    """
    if origin.endswith(FROM_ELSEWHERE):
        raise BadInput(f"'{origin}' is no run")
    path = Path(origin)
    folder = (path.parent if path.suffix == ".safetensors" else path).resolve()
    if folder not in spent:
        spent[folder] = read_result(folder / "result.json").budget_spent
        for earlier in origins(read_config(folder)):
            _collect(earlier, spent)
