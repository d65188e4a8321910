"""Words of a command line: written so that Hydra reads back what was meant, and found from settings that differ."""

import re
import shlex
from collections.abc import Iterable
from typing import Any

from errors import BadInput

PLAIN = re.compile(r"[A-Za-z_/][\w./-]*")  # strings that need no quotation marks, unless they say something else
OTHER = ("null", "true", "false", "inf", "nan")


def literal(value: Any) -> str:
    """A value as Hydra's override grammar writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}:{literal(part)}' for name, part in value.items())}}}"
    if PLAIN.fullmatch(str(value)) and str(value).lower() not in OTHER:
        return str(value)
    # a backslash is one unless it stands before a quotation mark
    inside = re.sub(r'(\\*)"', r'\1\1\\"', str(value))
    return '"' + re.sub(r"(\\+)$", r"\1\1", inside) + '"'


def words_of(value: Any) -> tuple[str, ...]:
    """Words as a plan may give them: one, a list, or a mapping from what is set to its value."""
    if isinstance(value, dict):
        return tuple(f"{name}={literal(part)}" for name, part in value.items())
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def task_parts(task: str) -> tuple[str, list[str]]:
    """(data module, words) of a plan's task, which is written as for a shell: what has a space is in quotation marks.

    Raises:
        BadInput: a quotation mark is open, or a word sets nothing.
    """
    try:
        name, *words = shlex.split(task) or [""]
    except ValueError as error:
        raise BadInput(f"tasks: in '{task}' a quotation mark is not closed") from error
    for word in words:
        if "=" not in word:
            example = f"\"{name} 'datamodule.root=my pictures'\""
            raise BadInput(f"tasks: '{word}' in '{task}' sets nothing; a value with a space is in quotation marks: {example}")
    parts = [word.partition("=") for word in words]
    return name, [f"{key}={literal(value) if ' ' in value else value}" for key, _, value in parts]


def last_of_each(*parts: Iterable[str]) -> tuple[str, ...]:
    """All words, of those that set the same thing only the last, because Hydra takes no choice twice."""
    found = {word.partition("=")[0].lstrip("+"): word for part in parts for word in part}
    return tuple(found.values())


def differences(node: dict[str, Any], usual: dict[str, Any], name: str) -> list[str]:
    """The words that turn the node `usual` into `node`; `name` is where it stands in the configuration."""
    words = []
    for key, value in node.items():
        known, place = usual.get(key), f"{name}.{key}"
        if isinstance(value, dict) and isinstance(known, dict):
            words += differences(value, known, place)
        elif key not in usual or value != known:
            words.append(f"{'' if key in usual else '+'}{place}={literal(value)}")
    return words
