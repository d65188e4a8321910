"""An encoder, or a pair of them, as files that need nothing of this project.

Images: `encoder.safetensors` in timm's key names. Text: a folder `encoder/` with weights and tokenizer, a Hugging Face one
with its configuration where the network is of transformers. Beside both stands `encoder.json`, the recipe by which
`load_encoder` builds it again. The encoders of a pair are called `image_encoder` and `text_encoder`; what joins them is
`pair.safetensors` with `pair.json`. A supervised run on pictures leaves its last layer, as `classifier`, and one that learned a
codebook what makes whole numbers of pictures and pictures of these, as `picture_codes`.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from datamodules.spec import DataSpec
from errors import BadInput
from models.classifier import Classifier
from models.encoder import Encoder
from models.pair import Pair, PairHead
from models.weights import load_strictly

FORMAT = 1
HEADS = ("pair", "classifier", "picture_codes")
IN_FOLDER = ("config", "tokenizer")  # parts of a text encoder's recipe that the folder holds already


def save_encoder(encoder: nn.Module, folder: Path, name: str = "encoder") -> Path:
    """Write an encoder, or another part with `exported`, and, last, `<name>.json`; each appears whole or not at all.

    Returns:
        Where the weights are.
    """
    if encoder.modality == "text":
        from transformers.utils.logging import disable_progress_bar

        from models.text_encoder import TextEncoder

        part, written = folder / f"{name}.part", folder / name
        shutil.rmtree(part, ignore_errors=True)
        disable_progress_bar()
        if isinstance(encoder, TextEncoder):  # the library takes the weights from where they are
            recipe = encoder.recipe()
            encoder.net.save_pretrained(part)
        else:
            weights, recipe = encoder.exported()
            part.mkdir()
            save_file(weights, part / "model.safetensors")
        encoder.vocabulary.tokenizer.save_pretrained(part)
        shutil.rmtree(written, ignore_errors=True)
        recipe = {key: value for key, value in recipe.items() if key not in IN_FOLDER}
    else:
        weights, recipe = encoder.exported()
        part, written = folder / f"{name}.safetensors.part", folder / f"{name}.safetensors"
        save_file(weights, part)
    os.replace(part, written)
    (folder / f"{name}.json.part").write_text(json.dumps({"format": FORMAT} | recipe, indent=2) + "\n")
    os.replace(folder / f"{name}.json.part", folder / f"{name}.json")
    return written


def load_encoder(folder: str | Path, name: str = "encoder") -> Encoder:
    """The encoder that `save_encoder` wrote into `folder`.

    Raises:
        BadInput: files are missing, unreadable, of a newer format, or do not belong together.
    """
    return build_encoder(*read_part(folder, name))


def load_pair(folder: str | Path) -> Pair:
    """Both encoders of an image-text run, and what joins them, in eval mode.

    Raises:
        BadInput: as `load_encoder`.
    """
    parts = {name: read_part(folder, name) for name in ("image_encoder", "text_encoder", "pair")}
    return build_pair(parts).eval()


def load_classifier(folder: str | Path) -> Classifier:
    """What a supervised run on pictures made of its encoder's features.

    Raises:
        BadInput: as `load_encoder`.
    """
    recipe, weights = read_part(folder, "classifier")
    classifier = Classifier(recipe["width"], tuple(recipe["class_names"]))
    load_strictly(classifier, weights, "the classifier")
    return classifier


def read_part(folder: str | Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(recipe, weights) as `save_encoder` wrote them.

    Raises:
        BadInput: as `load_encoder`.
    """
    folder = Path(folder)
    try:
        recipe = json.loads(_file(folder / f"{name}.json").read_text())
        if recipe.get("library") != "timm" and name not in HEADS:
            inside = folder / name
            if recipe["library"] == "transformers":
                recipe["config"] = json.loads(_file(inside / "config.json").read_text())
            recipe["tokenizer"] = _file(inside / "tokenizer.json").read_text()
            weights = load_file(_file(inside / "model.safetensors"))
        else:
            weights = load_file(_file(folder / f"{name}.safetensors"))
    except BadInput:
        raise
    except Exception as error:  # cut or foreign files: json and safetensors have several error types
        raise BadInput(f"the {name} in '{folder}' cannot be read: {' '.join(str(error).split())[:200]}") from error
    _check_format(recipe)
    return recipe, weights


def _file(path: Path) -> Path:
    if not path.is_file():
        raise BadInput(f"'{path.parent}' holds no {path.name}; a finished run has it")
    return path


def build_encoder(recipe: dict[str, Any], weights: dict[str, Any]) -> Encoder:
    """An encoder from its recipe (what `Encoder.exported` gave) and its weights."""
    _check_format(recipe)
    encoder = _image(recipe) if recipe["library"] == "timm" else _text(recipe)
    load_strictly(encoder.net, weights, f"model '{recipe['name']}'")
    encoder.pretrained = True
    return encoder


def build_pair(parts: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> Pair:
    """A pair from the (recipe, weights) of its parts: "image_encoder", "text_encoder" and "pair"."""
    recipe, weights = parts["pair"]
    _check_format(recipe)
    bias = 0.0 if recipe["sigmoid"] else None
    shape = (recipe[name] for name in ("image_width", "text_width", "embedding_width", "text_pool"))
    head = PairHead(*shape, logit_bias=bias)
    load_strictly(head, weights, "the pair")
    return Pair(build_encoder(*parts["image_encoder"]), build_encoder(*parts["text_encoder"]), head)


def _check_format(recipe: dict[str, Any]) -> None:
    if recipe.get("format", FORMAT) > FORMAT:
        raise BadInput(f"'{recipe.get('name')}' was exported in format {recipe['format']}, this version reads up to {FORMAT}")


def _image(recipe: dict[str, Any]) -> Encoder:
    from models.timm_encoder import TimmEncoder  # importing timm takes seconds that text need not wait for

    arguments = recipe["arguments"]
    spec = DataSpec("exported", "image", 0, recipe["image_size"], arguments["in_chans"])
    return TimmEncoder(
        spec,
        recipe["name"],
        patch_size=arguments.get("patch_size"),
        depth=arguments.get("depth"),
        positions=recipe["positions"],
        pool=arguments.get("global_pool", "avg"),
        settings=arguments,
        small_stem=recipe["small_stem"],
    )


def _text(recipe: dict[str, Any]) -> Encoder:
    from tokenizers import Tokenizer  # so does transformers, for pictures
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
