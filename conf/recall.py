"""The command line that gives a recorded configuration again: its choices, and what differs from their defaults.

A run's config.yaml holds settings, not words; how it was made (an experiment, a sweep) does not matter here.
"""

import shlex
from contextlib import nullcontext
from functools import cache
from typing import Any

from conf import CONF, choices_of, read_choice
from errors import BadInput

GROUPS = ("model", "datamodule", "optimizer", "trainer")  # of which the choice is not always recorded
NO_SETTINGS = ("names", "resume", "continued")  # keys of config.yaml that are no part of what was asked for


def train_command(config: dict[str, Any]) -> str:
    """`python train.py ...` for the config.yaml of a pre-training run.

    Raises:
        BadInput: its objective, model or data set has no file in conf/ any more.
    """
    names = config["names"] if isinstance(config.get("names"), dict) else {}
    return _command("train", config, [f"{group}={names.get(group)}" for group in ("objective", "model", "datamodule")])


def finetune_command(config: dict[str, Any], protocol: str, checkpoint: str) -> str:
    """`python finetune.py ...` for the config.yaml of a transfer run by `protocol`; `checkpoint` is what "latest" was.

    Raises:
        BadInput: the protocol has no file in conf/ any more.
    """
    return _command("finetune", config | {"checkpoint": checkpoint}, [f"transfer={protocol}"])


def _command(script: str, config: dict[str, Any], words: list[str]) -> str:
    config = {key: value for key, value in config.items() if key not in NO_SETTINGS}
    changes = differences(_composed(script, *words), config)
    chosen = [f"{group}={_nearest(group, config[group])}" for group in _open_groups(words, changes, config)]
    if chosen:
        fewer = differences(_composed(script, *words, *chosen), config)
        if len(fewer) < len(changes) or any(path.lstrip("+") in GROUPS for path in changes):
            words, changes = [*words, *chosen], fewer
    words += [path if path.startswith("~") else f"{path}={written(value)}" for path, value in changes.items()]
    first = [word for word in words if word.startswith("checkpoint=")]
    return shlex.join(["python", f"{script}.py", *first, *(word for word in words if word not in first)])


def _open_groups(words: list[str], changes: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """The groups in which something differs and of which no choice was recorded."""
    touched = {path.lstrip("+").partition(".")[0] for path in changes} - {word.partition("=")[0] for word in words}
    return [group for group in GROUPS if group in touched and isinstance(config[group], dict)]


def _nearest(group: str, node: dict[str, Any]) -> str:
    """The choice that leaves least to say about `node`."""
    return min(choices_of(group), key=lambda name: len(differences(_read(group, name), node)))


@cache
def _read(group: str, name: str) -> dict[str, Any]:
    return read_choice(group, name)


def differences(default: dict[str, Any], config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Override -> value: what turns `default` into `config`; keys are as Hydra writes them, "+new", "changed" and "~gone"."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if key not in default:
            found[f"+{path}"] = value
        elif isinstance(value, dict) and isinstance(default[key], dict):
            found |= differences(default[key], value, f"{path}.")
        elif value != default[key]:
            found[path] = value
    return found | {f"~{prefix}{key}": None for key in default if key not in config}


def written(value: Any) -> str:
    """A value as Hydra's grammar for overrides has it."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value and {*".e"} & {*short} else repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{written(part)}' for key, part in value.items())}}}"
    if isinstance(value, str) and not _is_plain(value):
        return QuotedString(value, Quote.single).with_quotes()
    return str(value)


def _is_plain(text: str) -> bool:
    """Whether a text can stand without quotes and still be read as a text."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"key={text}").value() == text
    except HydraException:
        return False


@cache
def _composed(script: str, *words: str) -> dict[str, Any]:
    """What the words alone give."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    running = GlobalHydra.instance().is_initialized()  # inside of compare.py, on the same folder
    with nullcontext() if running else initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = OmegaConf.to_container(compose(script, overrides=list(words)), resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise BadInput(f"{' '.join(words)} cannot be composed: {' '.join(str(error).split())}") from error
    return {key: value for key, value in config.items() if key not in NO_SETTINGS}
