"""An encoder as two files that need nothing of this project: `encoder.safetensors` (timm's key names) and `encoder.json`."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder
from models.timm_encoder import TimmEncoder, load_strictly

FORMAT = 1


def save_encoder(encoder: Encoder, folder: Path) -> None:
    """Write `encoder.safetensors` and `encoder.json`; each appears whole or not at all."""
    weights, recipe = encoder.exported()
    save_file(weights, folder / "encoder.safetensors.part")
    os.replace(folder / "encoder.safetensors.part", folder / "encoder.safetensors")
    (folder / "encoder.json.part").write_text(json.dumps({"format": FORMAT} | recipe, indent=2) + "\n")
    os.replace(folder / "encoder.json.part", folder / "encoder.json")


def load_encoder(folder: str | Path) -> Encoder:
    """The encoder that `save_encoder` wrote into `folder`.

    Raises:
        BadInput: files are missing, unreadable, of a newer format, or do not belong together.
    """
    folder = Path(folder)
    recipe_file, weights_file = folder / "encoder.json", folder / "encoder.safetensors"
    for file in (recipe_file, weights_file):
        if not file.is_file():
            raise BadInput(f"'{folder}' holds no {file.name}; a finished run has it")
    try:
        recipe, weights = json.loads(recipe_file.read_text()), load_file(weights_file)
    except Exception as error:  # cut or foreign files: json and safetensors have several error types
        raise BadInput(f"the encoder in '{folder}' cannot be read: {' '.join(str(error).split())[:200]}") from error
    return build_encoder(recipe, weights)


def build_encoder(recipe: dict[str, Any], weights: dict[str, Any]) -> Encoder:
    """An encoder from its recipe (the contents of `encoder.json`) and its weights."""
    if recipe.get("format", FORMAT) > FORMAT:
        raise BadInput(f"encoder.json has format {recipe['format']}, this version reads up to {FORMAT}")
    arguments = recipe["arguments"]
    spec = DataSpec("exported", "image", 0, recipe["image_size"], arguments["in_chans"])
    encoder = TimmEncoder(
        spec,
        recipe["name"],
        patch_size=arguments.get("patch_size"),
        depth=arguments.get("depth"),
        positions=recipe["positions"],
        pool=arguments.get("global_pool", "avg"),
    )
    load_strictly(encoder.net, weights, f"model '{recipe['name']}'")
    encoder.pretrained = True
    return encoder
