"""Whether an objective, a model and a data set fit together, by their names alone: before anything is opened or built."""

import importlib
from functools import cache

from conf import choices_of, read_choice
from errors import BadInput


def check_fit(names: dict[str, str]) -> None:
    """Raise BadInput, with the choices that fit, when model or data are of another modality than the objective.

    Args:
        names: the choices of the groups "objective", "model" and "datamodule".
    """
    wanted = modality("objective", names["objective"])
    for group in ("model", "datamodule"):
        found = modality(group, names[group])
        if wanted != found:
            fitting = [choice for choice in choices_of(group) if modality(group, choice) == wanted]
            raise BadInput(
                f"objective={names['objective']} is for {wanted}, {group}={names[group]} for {found}; "
                f"{group} choices that fit: {', '.join(fitting)}"
            )


@cache
def modality(group: str, choice: str) -> str | None:
    """The modality that a choice's class declares."""
    module, _, name = read_choice(group, choice)["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name).modality
