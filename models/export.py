"""An encoder as files that need nothing of this project.

Images: `encoder.safetensors` in timm's key names. Text: a folder `encoder/` with weights and tokenizer, a Hugging Face one
with its configuration where the network is of transformers. Beside both stands `encoder.json`, the recipe by which
`load_encoder` builds it again.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder
from models.timm_encoder import TimmEncoder
from models.weights import load_strictly

FORMAT = 1
IN_FOLDER = ("config", "tokenizer")  # parts of a text encoder's recipe that the folder holds already


def save_encoder(encoder: Encoder, folder: Path) -> Path:
    """Write the encoder and, last, `encoder.json`; each appears whole or not at all. Returns where the weights are."""
    weights, recipe = encoder.exported()
    if encoder.modality == "text":
        from transformers.utils.logging import disable_progress_bar

        part, written = folder / "encoder.part", folder / "encoder"
        shutil.rmtree(part, ignore_errors=True)
        disable_progress_bar()
        if recipe["library"] == "transformers":
            encoder.net.save_pretrained(part)
        else:
            part.mkdir()
            save_file(weights, part / "model.safetensors")
        encoder.vocabulary.tokenizer.save_pretrained(part)
        shutil.rmtree(written, ignore_errors=True)
        recipe = {name: value for name, value in recipe.items() if name not in IN_FOLDER}
    else:
        part, written = folder / "encoder.safetensors.part", folder / "encoder.safetensors"
        save_file(weights, part)
    os.replace(part, written)
    (folder / "encoder.json.part").write_text(json.dumps({"format": FORMAT} | recipe, indent=2) + "\n")
    os.replace(folder / "encoder.json.part", folder / "encoder.json")
    return written


def load_encoder(folder: str | Path) -> Encoder:
    """The encoder that `save_encoder` wrote into `folder`.

    Raises:
        BadInput: files are missing, unreadable, of a newer format, or do not belong together.
    """
    folder = Path(folder)
    try:
        recipe = json.loads(_file(folder / "encoder.json").read_text())
        if recipe.get("library") != "timm":
            inside = folder / "encoder"
            if recipe.get("library") == "transformers":
                recipe["config"] = json.loads(_file(inside / "config.json").read_text())
            recipe["tokenizer"] = _file(inside / "tokenizer.json").read_text()
            weights = load_file(_file(inside / "model.safetensors"))
        else:
            weights = load_file(_file(folder / "encoder.safetensors"))
    except BadInput:
        raise
    except Exception as error:  # cut or foreign files: json and safetensors have several error types
        raise BadInput(f"the encoder in '{folder}' cannot be read: {' '.join(str(error).split())[:200]}") from error
    return build_encoder(recipe, weights)


def _file(path: Path) -> Path:
    if not path.is_file():
        raise BadInput(f"'{path.parent}' holds no {path.name}; a finished run has it")
    return path


def build_encoder(recipe: dict[str, Any], weights: dict[str, Any]) -> Encoder:
    """An encoder from its recipe (what `Encoder.exported` gave) and its weights."""
    if recipe.get("format", FORMAT) > FORMAT:
        raise BadInput(f"encoder.json has format {recipe['format']}, this version reads up to {FORMAT}")
    encoder = _image(recipe) if recipe["library"] == "timm" else _text(recipe)
    load_strictly(encoder.net, weights, f"model '{recipe['name']}'")
    encoder.pretrained = True
    return encoder


def _image(recipe: dict[str, Any]) -> TimmEncoder:
    arguments = recipe["arguments"]
    spec = DataSpec("exported", "image", 0, recipe["image_size"], arguments["in_chans"])
    return TimmEncoder(
        spec,
        recipe["name"],
        patch_size=arguments.get("patch_size"),
        depth=arguments.get("depth"),
        positions=recipe["positions"],
        pool=arguments.get("global_pool", "avg"),
    )


def _text(recipe: dict[str, Any]) -> Encoder:
    from tokenizers import Tokenizer  # here, because importing transformers takes seconds that pictures need not wait for
    from transformers import PreTrainedTokenizerFast

    from datamodules.vocabulary import Vocabulary
    from models.bilstm import BiLSTM
    from models.text_encoder import TextEncoder
    from models.word_vectors import WordVectors

    try:
        pieces = Tokenizer.from_str(recipe["tokenizer"])
    except Exception as error:  # the library raises bare Exceptions
        raise BadInput(f"the tokenizer of model '{recipe['name']}' cannot be read: {' '.join(str(error).split())}") from error
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, **recipe["special_tokens"])
    vocabulary = Vocabulary(tokenizer, recipe["num_sentinels"])
    spec = DataSpec("exported", "text", 0, block_length=recipe["block_length"], vocabulary=vocabulary)
    if recipe["library"] == "transformers":
        return TextEncoder(spec, config=recipe["config"], pool=recipe["pool"])
    return {"bilstm": BiLSTM, "word_vectors": WordVectors}[recipe["name"]](spec, **recipe["arguments"])
