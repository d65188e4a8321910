"""A tokenizer: trained on the corpus that it will cut, or taken from a run, a folder, a file or the hub."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from datamodules.cache import alone, cache_folder, keep
from datamodules.tokenizer_training import SMALLEST, SPECIAL, train_tokenizer
from errors import BadInput, nearest

log = logging.getLogger(__name__)

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # said aloud, or every forked data worker warns about it

OTHER_NAMES = {  # of special tokens in a bare tokenizer.json
    "pad_token": ("<pad>", "<|padding|>"),
    "unk_token": ("<unk>",),
    "bos_token": ("<s>", "<|begin_of_text|>"),
    "eos_token": ("</s>", "<|endoftext|>", "<|end_of_text|>"),
    "mask_token": ("<mask>",),
}
DEFAULTS = {"kind": "wordpiece", "vocab_size": 8192, "lowercase": True, "path": None}
LARGEST = 1_000_000  # ids; the trainer's memory grows with what is asked for, and it ends the process when there is none
WORDS = {"kind": (str, "a text"), "vocab_size": (int, "a whole number"), "lowercase": (bool, "true or false")}
WORDS |= {"path": (str | None, "a folder, a file or a hub id")}
FORMAT = 1  # another number trains anew what is in the cache


def tokenizer_for(
    settings: dict, texts: Callable[[int], Iterator[str]], identity: object, cache: str | None
) -> PreTrainedTokenizerFast:
    """The tokenizer that the settings select, or the trained one, from the cache where the same was trained before.

    Args:
        settings: `kind`, `vocab_size`, `lowercase`, or `path` of one that is taken as it is.
        texts: most bytes -> the training texts.
        identity: changes whenever the texts do; can be written as JSON.
        cache: a folder; None is the default one.
    """
    unknown = sorted(set(settings) - set(DEFAULTS))
    if unknown:
        raise BadInput(f"there is no setting 'datamodule.tokenizer.{unknown[0]}'; {nearest(unknown[0], DEFAULTS)}")
    settings = DEFAULTS | dict(settings)
    for name, (kind, spoken) in WORDS.items():
        if not isinstance(settings[name], kind) or (kind is int and isinstance(settings[name], bool)):
            raise BadInput(f"datamodule.tokenizer.{name} must be {spoken}, not {settings[name]!r}")
    if settings["path"]:
        return load_tokenizer(settings["path"])
    kind, vocab_size, lowercase = settings["kind"], settings["vocab_size"], settings["lowercase"]
    if kind not in SMALLEST:
        raise BadInput(f"datamodule.tokenizer.kind='{kind}' is not known; {nearest(kind, SMALLEST)}")
    if vocab_size < SMALLEST[kind]:
        raise BadInput(f"datamodule.tokenizer.vocab_size={vocab_size} is too small: {kind} needs at least {SMALLEST[kind]}")
    if vocab_size > LARGEST:
        raise BadInput(f"datamodule.tokenizer.vocab_size={vocab_size} is too large: at most {LARGEST:,}")
    key = hashlib.sha256(json.dumps([FORMAT, identity, kind, vocab_size, lowercase]).encode()).hexdigest()[:24]
    path = cache_folder(cache, "tokenizers") / f"{key}.json"
    with alone(path):
        if path.exists():
            try:
                return wrapped(Tokenizer.from_file(str(path)))
            except Exception:  # tokenizers raises nothing more special
                log.warning("the tokenizer '%s' is damaged; training it again", path)
        unfinished = path.with_suffix(".unfinished")
        train_tokenizer(kind, vocab_size, lowercase, texts).save(str(unfinished))
        keep(unfinished, path)
        return wrapped(Tokenizer.from_file(str(path)))


def wrapped(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    """For transformers; `special` names the special tokens where they are not this project's."""
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **(special or SPECIAL))


def load_tokenizer(path: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a run folder, a Hugging Face folder, a tokenizer.json, or a hub id.

    Raises:
        BadInput: there is none, or it is one of those that are not fast.
    """
    place = Path(path).expanduser()
    for name in ("encoder", "text_encoder"):
        if (place / name).is_dir():
            place = place / name
    if place.is_dir() and (place / "tokenizer.json").exists() and not (place / "tokenizer_config.json").exists():
        place = place / "tokenizer.json"
    if place.is_file():
        return _from_file(place)
    if not place.exists() and (path.startswith((".", "~", os.sep)) or path.count("/") > 1 or path.endswith(".json")):
        raise BadInput(f"datamodule.tokenizer.path='{path}' does not exist")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(place) if place.exists() else path)
    except Exception as error:  # transformers and the hub raise many kinds: all mean that there is none to be had
        reason = " ".join(str(error).split())[:160]
        raise BadInput(f"there is no tokenizer at datamodule.tokenizer.path='{path}': {reason}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise BadInput(f"datamodule.tokenizer.path='{path}' is a slow tokenizer; one with a tokenizer.json is needed")
    return tokenizer


def _from_file(path: Path) -> PreTrainedTokenizerFast:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise BadInput(f"datamodule.tokenizer.path='{path}' is no tokenizer.json: {' '.join(str(error).split())}") from error
    special = {}
    for role in (*SPECIAL, *OTHER_NAMES):
        names = (*((SPECIAL[role],) if role in SPECIAL else ()), *OTHER_NAMES.get(role, ()))
        found = next((name for name in names if tokenizer.token_to_id(name) is not None), None)
        if found is not None:
            special[role] = found
    return wrapped(tokenizer, **special) if special else PreTrainedTokenizerFast(tokenizer_object=tokenizer)
