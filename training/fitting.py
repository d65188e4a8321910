"""Whether an objective, a model and a data set fit together: by their names first, then by what they turn out to be."""

from functools import cache

from conf import choices_of, read_choice
from conf.targets import class_at
from datamodules.contract import Data
from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder


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


def check_needs(names: dict[str, str], encoder: Encoder, spec: DataSpec) -> None:
    """Raise BadInput when the built encoder or the opened data lack what the objective needs."""
    wanted = _class_of("objective", names["objective"])
    if wanted.drops_patches and not encoder.drops_patches:
        fitting = [choice for choice in choices_of("model") if read_choice("model", choice).get("positions") == "sincos"]
        raise BadInput(
            f"objective={names['objective']} needs a model that can drop patches, which model={names['model']} cannot; "
            f"model choices that fit: {', '.join(fitting)}"
        )
    if wanted.attention is not None and encoder.causal != (wanted.attention == "causal"):
        fitting = [choice for choice in choices_of("model") if _is_causal(choice) is (wanted.attention == "causal")]
        raise BadInput(
            f"objective={names['objective']} needs a model with {wanted.attention} attention, which model={names['model']} has "
            f"not; model choices that fit: {', '.join(fitting)}"
        )
    if "label" in wanted.needs and spec.num_classes < 2:
        found = "one class only" if spec.num_classes else "none"
        raise BadInput(f"objective={names['objective']} needs labels of two classes or more; '{spec.name}' has {found}")


def face(names: dict[str, str], data: Data) -> Data:
    """What of the data an objective trains on: the labelled task of a corpus where it needs labels, else all of it."""
    needs_labels = "label" in _class_of("objective", names["objective"]).needs
    return data.task if needs_labels and data.task is not None else data


def _is_causal(choice: str) -> bool | None:
    """Whether a text model's attention is causal; None where that is not known from its file."""
    from models.text_nets import CAUSAL

    architecture = read_choice("model", choice).get("architecture")
    return None if architecture is None else architecture in CAUSAL


def modality(group: str, choice: str) -> str | None:
    """The modality that a choice's class declares."""
    return _class_of(group, choice).modality


@cache
def _class_of(group: str, choice: str) -> type:
    return class_at(read_choice(group, choice)["_target_"])
