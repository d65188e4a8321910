"""What a configuration may build: classes of this project and of the libraries that it stands on, with settings of their types.

A configuration is data. It may come with somebody else's run, so that nothing in it may name arbitrary code.
"""

import collections.abc
import importlib
import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any

from errors import BadInput, nearest

OURS = ("datamodules", "models", "objectives", "training", "transfer", "reports")
LIBRARIES = ("torch", "timm", "transformers", "lightning")
GROUPS = {
    "datamodules": "datamodule",
    "models": "model",
    "objectives": "objective",
    "training": "optimizer",
}  # on the command line
HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")
WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}


def class_at(target: object) -> type:
    """The class that a `_target_` names.

    Raises:
        BadInput: it is not a class of this project, torch, timm, transformers or lightning.
    """
    allowed = (*OURS, *LIBRARIES)
    root = target.partition(".")[0] if isinstance(target, str) else None
    if root not in allowed:
        raise BadInput(f"_target_ '{target}' is refused: it can name classes of {', '.join(allowed)} only")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"_target_ '{target}' does not exist: {' '.join(str(error).split())[:160]}") from error
    # what such a module has imported from elsewhere (torch.os, say), and functions that load or run things, are none of it
    if not isinstance(found, type) or found.__module__.partition(".")[0] not in allowed:
        raise BadInput(f"_target_ '{target}' is refused: it is no class of {', '.join(allowed)}")
    return found


def check_node(node: Any, late: dict[str, Any] | None = None) -> None:
    """Raise BadInput where a node, or one inside it, names what it may not, or has settings that do not fit.

    Args:
        late: arguments that are given besides.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        raise BadInput(f"settings without a _target_ say nothing that could be built: {' '.join(str(node).split())[:120]}")
    for inner in _nodes(node):
        target = class_at(inner["_target_"])
        given = set(late or {}) if inner is node else set()
        _check_settings(target, {key: value for key, value in inner.items() if key not in HYDRAS}, given)


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)


def _check_settings(target: type, settings: dict[str, Any], given: set[str]) -> None:
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    try:
        hints = typing.get_type_hints(target.__init__)
    except (NameError, TypeError):  # of a library: names that exist for type checkers alone
        hints = {}
    group = GROUPS.get(target.__module__.partition(".")[0], target.__module__.partition(".")[0])
    for key, value in settings.items():
        if key not in parameters:
            raise BadInput(f"there is no setting '{group}.{key}'; {nearest(key, set(parameters) - given)}")
        if target.__module__.partition(".")[0] in OURS and not fits(value, hints.get(key, Any)):
            raise BadInput(f"{group}.{key} must be {_spoken(hints[key])}, not {value!r}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a configuration file can be what a type hint says; hints of anything but plain data fit all."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, choice) for choice in inner)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool, type(None)):
        return isinstance(value, hint)
    if origin is tuple or hint is tuple:
        if not isinstance(value, list | tuple):
            return False
        kinds = (inner[0],) * len(value) if inner[1:] == (...,) else inner
        return not inner or (len(kinds) == len(value) and all(map(fits, value, kinds)))
    if origin is list or hint is list:
        return isinstance(value, list | tuple) and all(fits(part, kind) for kind in inner for part in value)
    if origin is collections.abc.Callable:
        return isinstance(value, dict) and "_target_" in value
    if origin is dict or hint is dict:
        return isinstance(value, dict) and all(fits(part, inner[1]) for part in value.values() if inner)
    return True


def _spoken(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_spoken(choice) for choice in inner))
    if origin is tuple and inner[1:] == (...,):
        return f"a list, each {_spoken(inner[0])}"
    if origin is tuple:
        return f"a list of {len(inner)} ({', '.join(map(_spoken, inner))})"
    if list in (origin, hint):
        return "a list"
    if dict in (origin, hint) or origin is collections.abc.Callable:
        return "a group of settings"
    return WORDS.get(hint, str(getattr(hint, "__name__", hint)))
