"""Words of a command line as a shell hands them over, into what Hydra's override grammar reads as meant."""

import os
import re

from conf import CONF

FOLDERS = (  # settings that name one
    "resume", "checkpoint", "report", "folder", "outputs", "model.init", "hydra.run.dir", "hydra.sweep.dir",
)  # fmt: skip
NAME = re.compile(r"(?!null$)[\w.+-]+")  # Hydra would make a number of 7, of 2026_11 and of 1e3
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


def all_groups() -> set[str]:
    """The folders of conf/: what a word like `objective=mae` chooses from."""
    return {path.name for path in CONF.iterdir() if path.is_dir()}
