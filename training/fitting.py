"""Whether an objective, a model and a data set fit together: by their names first, then by what they turn out to be."""

from conf import choices_of, class_of, modality, read_choice
from datamodules.contract import Data
from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder

ATTENTION = {  # in words
    "bidirectional": "bidirectional attention",
    "causal": "causal attention",
    "none": "one vector for each token and no attention",
    "directions": "one network for each direction",
}


def check_fit(names: dict[str, str]) -> None:
    """Raise BadInput, with the choices that fit, when model or data are of another modality than the objective.

    Args:
        names: the choices of the groups "objective", "model" and "datamodule".
    """
    objective = class_of("objective", names["objective"])
    declared = objective.modality
    for group in ("model", "datamodule"):
        wanted = {objective.encodes or declared if group == "model" else declared}
        if group == "datamodule" and "label" in objective.needs:
            wanted.add("image_text")  # of pictures with captions `face` gives it those that it is for
        found = modality(group, names[group])
        if found not in wanted:
            fitting = [choice for choice in choices_of(group) if modality(group, choice) in wanted]
            raise BadInput(
                f"objective={names['objective']} is for {declared}, {group}={names[group]} for {found}; "
                f"{group} choices that fit: {', '.join(fitting)}"
            )


def check_needs(names: dict[str, str], encoder: Encoder, spec: DataSpec) -> None:
    """Raise BadInput when the built encoder or the opened data lack what the objective needs."""
    wanted = class_of("objective", names["objective"])
    if wanted.keeps_encoder and not encoder.pretrained:
        raise BadInput(
            f"objective={names['objective']} leaves the model as it is, so it must have learned something before: "
            "model.pretrained=<run folder>/encoder.safetensors"
        )
    if wanted.drops_patches and not encoder.drops_patches:
        fitting = [choice for choice in choices_of("model") if read_choice("model", choice).get("positions") == "sincos"]
        raise BadInput(
            f"objective={names['objective']} needs a model that can drop patches, which model={names['model']} cannot; "
            f"model choices that fit: {', '.join(fitting)}"
        )
    if wanted.attention is not None and encoder.attention != wanted.attention:
        fitting = [choice for choice in choices_of("model") if _attention_of(choice) == wanted.attention]
        raise BadInput(
            f"objective={names['objective']} needs a model with {ATTENTION[wanted.attention]}, which model={names['model']} "
            f"has not; model choices that fit: {', '.join(fitting)}"
        )
    if "label" in wanted.needs and spec.num_classes < 2:
        found = "one class only" if spec.num_classes else "none"
        raise BadInput(f"objective={names['objective']} needs labels of two classes or more; '{spec.name}' has {found}")


def face(names: dict[str, str], data: Data) -> Data:
    """What of the data an objective trains on: where it needs labels their labelled task, if there is one, else all."""
    objective = class_of("objective", names["objective"])
    if "label" not in objective.needs:
        return data
    captioned = (objective.modality, data.modality) == ("text", "image_text")
    task = data.caption_task if captioned else data.task
    return data if task is None else task


def has_task(choice: str) -> bool:
    """Whether a data module may have a labelled task; running text has none."""
    from datamodules.text import TextData

    return class_of("datamodule", choice).task is not TextData.task


def _attention_of(choice: str) -> str | None:
    """What a text model's tokens see of each other; None where that is not known from its file."""
    architecture = read_choice("model", choice).get("architecture")
    if architecture is None:
        return class_of("model", choice).attention
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

    generates = architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and architecture not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return "causal" if generates else "bidirectional"
