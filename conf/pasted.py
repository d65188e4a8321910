"""Commands and paths as they can be typed again where this command was started, whatever folder it works in by now."""

import os
import re
import shlex
from pathlib import Path

from conf import CONF

_started_in = Path.cwd()


def start_here() -> None:
    """Remember the folder that a command is started in; Hydra may change it (`hydra.job.chdir=true`)."""
    global _started_in
    _started_in = Path.cwd()


def started_in() -> Path:
    """That folder."""
    return _started_in


def from_start(path: str | Path) -> Path:
    """A path as seen from there: relative where it is below, or was given so, else as it is."""
    whole = Path(os.path.abspath(path))
    return Path(os.path.relpath(whole, _started_in)) if whole.is_relative_to(_started_in) else Path(path)


def command_line(script: str, **settings: str | Path) -> str:
    """`python <script> <settings>` in the quotes that a shell wants, and Hydra; a path is told as seen from the start."""
    file = CONF.parent / script
    words = [word_of(key, value) for key, value in settings.items()]
    return shlex.join(["python", min(os.path.relpath(file, _started_in), str(file), key=len), *words])


def word_of(key: str, value: str | Path) -> str:
    """`key=value`; what Hydra would take for several values, or for none, is in quotes."""
    text = str(from_start(value) if isinstance(value, Path) else value)
    if not re.search(r"[,'\"{}\\$]|^[\[( ]| $", text):
        return f"{key}={text}"  # of other characters `conf.words` takes care
    return f"{key}={in_quotes(text)}"


def in_quotes(text: str) -> str:
    """A text as Hydra's grammar has it, whatever is in it."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


def in_double_quotes(text: str) -> str:
    """Likewise, to stand within the single quotes of a shell."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text.strip("'"), Quote.double).with_quotes()
