"""Words of a command line as a shell hands them over, into what Hydra's override grammar reads as meant."""

import os
import re
from pathlib import Path

from conf import CONF
from conf.pasted import in_quotes

FOLDERS = (  # settings that name one
    "resume", "checkpoint", "report", "folder", "outputs", "model.init", "hydra.run.dir", "hydra.sweep.dir",
)  # fmt: skip
NAME = re.compile(r"(?!null$)[\w.+-]+")  # Hydra would make a number of 7, of 2026_11 and of 1e3
NO_CHOICE = re.compile(r"null|true|false|nan|inf|[-+\d._eE]+", re.I)  # Hydra takes a choice that looks so for no text
SIMPLE = re.compile(r"[\w.+~@/-]+=[\w./:-]*", re.ASCII)  # words that need no second look
BRACES = re.compile(r"(?<!\$)\{[^{}$:]*(\.\.|,)[^{}:]*\}")  # {00..04} or {a,b}, no dictionary and no interpolation


def quoted(word: str) -> str:
    """A setting whose value is a path with a brace pattern, `shards=train-{00..04}.tar`, in the quotes that Hydra wants.

    So are the names of folders, which may look like numbers, and paths in the home folder, ~/pictures, which the shell leaves
    as they are behind a setting.
    """
    key, _, value = word.partition("=")
    if key in FOLDERS and not BRACES.search(value):
        names = [f"'{name}'" if NAME.fullmatch(name) else _from_home(name) for name in value.split(",")]
        return f"{key}={','.join(names)}"
    plain = value and value[0] not in "'\"[" and not re.match(r"\w+\(", value) and "'" not in value
    if plain and BRACES.search(value):
        return f"{key}='{value}'"
    return f"{key}={','.join(map(_from_home, value.split(',')))}" if plain else word


def readable(words: list[str], script: str) -> list[str]:
    """The words of a command's line, with quotes where Hydra's grammar refuses a value, or would make no name of a choice."""
    groups, is_sweep = groups_of(script), bool({"-m", "--multirun"} & {*words})
    return [_readable(word, groups, is_sweep) for word in words]


def _readable(word: str, groups: set[str], is_sweep: bool) -> str:
    key, given, value = word.partition("=")
    if key in groups and given:
        names = (f"'{name}'" if NO_CHOICE.fullmatch(name) else name for name in value.split(","))
        return f"{key}={','.join(names)}"
    if not given or key.startswith("-") or value[:1] in ("{", "[") or SIMPLE.fullmatch(word) or _parses(word):
        return word
    values = value.split(",") if is_sweep else [value]
    anew = f"{key}={','.join(map(in_quotes, values))}"
    return anew if _parses(anew) else word


def _parses(word: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def _from_home(path: str) -> str:
    return f"'{os.path.expanduser(path)}'" if path.startswith("~") else path


def settle_late(words: list[str]) -> list[str]:
    """A command line on which settings below a group hold for every job of a sweep over groups.

    Hydra first composes a sweep without its swept groups, and would refuse `model.width=64` in
    `-m objective=mlm,rtd model.width=64`, because the default objective's model has no width. A sweep over one value says the
    same and is looked at only in the jobs.
    """
    groups = all_groups()
    swept = any(word.partition("=")[0] in groups and "," in word.partition("=")[2] for word in words)
    if not swept or not {"-m", "--multirun"} & set(words):
        return words
    return [
        f"{key}=choice({value})" if key.partition(".")[0] in groups and "." in key and _is_plain(value) else word
        for word in words
        for key, _, value in [word.partition("=")]
    ]


def _is_plain(value: str) -> bool:
    """Whether an override gives one value: not a sweep already."""
    return bool(value) and not re.match(r"\w+\(", value) and ("," not in value or value[0] in "[{'\"")


def groups_of(script: str) -> set[str]:
    """The groups from which words of a command choose; in a comparison all but `plan` are settings."""
    return {"plan"} if Path(script).stem == "compare" else all_groups() - {"plan"}


def all_groups() -> set[str]:
    """The folders of conf/: what a word like `objective=mae` chooses from."""
    return {path.name for path in CONF.iterdir() if path.is_dir()}
