"""How a command ends that could not do what it was asked: one line with the thing, the reason and the choices, and a code."""

import errno
import os
import re
import sys
import traceback
from pathlib import Path

from conf.interrupts import INTERRUPTED
from conf.words import all_groups
from errors import BadInput, Elsewhere, RunStopped, nearest


def is_first_rank() -> bool:
    """Whether this process speaks for the run; torchrun and our launcher number the ranks."""
    return os.environ.get("RANK", "0") == "0"


def ending_of(error: BaseException) -> tuple[str | None, int] | None:
    """(what the user is told, or None where another rank says it; the exit code), or None for a defect of this project."""
    match error:
        case BadInput():
            return _with_notes(error), 2
        case Elsewhere():
            return None, 2
        case RunStopped():
            return None if error.everywhere and not is_first_rank() else _with_notes(error), error.exit_code
        case KeyboardInterrupt():
            notes = getattr(error, "__notes__", None)
            return "; ".join(("interrupted", *notes)) if notes else INTERRUPTED, 130
        case BrokenPipeError():  # of `train.py | head`
            return "; ".join(("the program that read the output has ended", *getattr(error, "__notes__", ()))), 1
    line = _configuration_error(error) or _no_folder(error)
    if line is not None:
        return line, 2
    line = _exhausted(error)
    return None if line is None else (line, 1)


def _with_notes(error: BaseException) -> str:
    line = str(error).rpartition("errors.BadInput: ")[2].strip()  # a data worker puts its traceback before it
    return "; ".join((line, *getattr(error, "__notes__", ())))


def _no_folder(error: BaseException) -> str | None:
    """Hydra makes the output folder before `main` begins; where that failed, the folder and the reason in one line."""
    if not isinstance(error, OSError) or not error.filename:
        return None
    rooms = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)]
    if "hydra" not in rooms:
        return None
    called = rooms[len(rooms) - rooms[::-1].index("hydra") :]  # by Hydra last: os or pathlib, or what `main` did
    if called[:1] not in ([], ["os"], ["pathlib"]):
        return None
    return (
        f"the output folder '{error.filename}' cannot be made: {error.strerror}; "
        "give another by hydra.run.dir=<folder>, with -m by hydra.sweep.dir=<folder>"
    )


def _exhausted(error: BaseException) -> str | None:
    """What the machine ran out of, as one line; the run's notes say what is saved."""
    message, notes = " ".join(str(error).split())[:200], getattr(error, "__notes__", ())
    number = re.search(r"\(os error (\d+)\)", message)  # as libraries in Rust say it
    code = error.errno if isinstance(error, OSError) else int(number[1]) if number else None
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        what = f"'{error.filename}'" if isinstance(error, OSError) and error.filename else "a file"
        return "; ".join((f"{what} cannot be written: {os.strerror(code)}", *notes))
    full = type(error).__name__ == "OutOfMemoryError" or "CPUAllocator" in message  # torch on a GPU, on the host
    if isinstance(error, MemoryError) or full:
        smaller = (
            "try trainer.accumulate=2, trainer.activation_checkpointing=true or a smaller datamodule.batch_size "
            "(of transfer=finetune transfer.batch_size)"
        )
        return "; ".join((f"out of memory: {message}", smaller, *notes))
    return None


def _configuration_error(error: BaseException) -> str | None:
    """Hydra's and OmegaConf's complaints about the command line, as one line with the nearest valid names."""
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"there is no {group} '{name}'; {nearest(name, error.options)}"
    message = " ".join(str(error).split())
    missing = re.search(r"Missing mandatory value: .*full_key: (\S+)", message)
    if missing:
        return f"{missing.group(1)} must be given; its file in conf/ says what it is"
    unknown = re.search(r"Could not override '([^']+)'", message)
    if unknown:
        parent, _, key = unknown.group(1).rpartition(".")
        choice, keys = _where_missing(parent, key)
        return f"{choice}there is no setting '{unknown.group(1)}'" + (f"; {nearest(key, keys)}" if keys else "")
    return message


def _where_missing(parent: str, key: str) -> tuple[str, list[str]]:
    """('with objective=simclr ', the settings at `parent`): of the choices of a sweep the first where `key` is none of them."""
    words = [word.partition("=")[::2] for word in sys.argv[1:]]
    chosen = [f"{group}={value}" for group, value in words if group in all_groups() and "," not in value]
    for group, value in words:
        for choice in value.split(",") if group == parent.partition(".")[0] and "," in value else ():
            keys = _keys_at(parent, [*chosen, f"{group}={choice}"])
            if keys and key not in keys:
                return f"with {group}={choice} ", keys
    return "", _keys_at(parent, chosen)


def _keys_at(parent: str, chosen: list[str]) -> list[str]:
    """The settings that the composed configuration has at `parent`, given these choices."""
    from conf.composition import compose_settings

    try:
        node, _ = compose_settings(Path(sys.argv[0]).stem, chosen, complete=False)
        for key in parent.split(".") if parent else []:
            node = node[key]
        return [str(key) for key in node if not str(key).startswith("_")] if isinstance(node, dict) else []
    except Exception:  # the hint is a courtesy: without it the line still names the unknown key
        return []
