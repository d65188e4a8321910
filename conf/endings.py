"""How a command ends that could not do what it was asked: one line with the thing, the reason and the choices, and a code."""

import errno
import os
import re
import signal
import sys
import traceback
from pathlib import Path

from conf import CONF, choices_of, read_choice
from conf.interrupts import Terminated, asked_by, said_of
from conf.pasted import in_double_quotes
from conf.words import groups_of
from errors import BadInput, Elsewhere, RunStopped, nearest

EXTRAS = {  # choices of Hydra's own groups -> what brings them
    **dict.fromkeys(("joblib", "submitit_slurm", "submitit_local"), "launchers"),
    "ray": "ray",
    "optuna": "optuna",
}


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
            number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
            notes = getattr(error, "__notes__", None)
            return "; ".join((asked_by(number), *notes)) if notes else said_of(number), 128 + number
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
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if name in EXTRAS:
            return f'{group}={name} comes with an extra: pip install "headstart[{EXTRAS[name]}]"'
        return f"there is no {group} '{name}'; {nearest(name, error.options)}"
    message = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        return (
            f"the word '{error.override}' cannot be read: settings are written key=value, and a value with special characters "
            "in two kinds of quotes, \"key='value'\", also within a group, \"key={name:'value'}\""
        )
    missing = re.search(r"Missing mandatory value: .*full_key: (\S+)", message)
    if missing:
        return must_be_given(missing.group(1))
    gone = re.search(r"full_key: hydra\.runtime\.choices\.(\w+)", message)
    if gone:
        named = " (another --config-name has other groups)" if {"-cn", "--config-name"} & {*sys.argv} else ""
        return f"{gone.group(1)} must be given{named}; choices: {', '.join(choices_of(gone.group(1)))}"
    unknown = re.search(r"Could not override '([^']+)'", message)
    if unknown:
        parent, _, key = unknown.group(1).rpartition(".")
        choice, keys = _where_missing(parent, key)
        cures = (nearest(key, keys) if keys else "", _elsewhere(unknown.group(1)))
        return "; ".join((f"{choice}there is no setting '{unknown.group(1)}'", *filter(None, cures)))
    return message


def must_be_given(name: str) -> str:
    """That a setting must be given which its file leaves open, with what the file says of it."""
    group, _, key = name.partition(".")
    files = sorted((CONF / group).glob("*.yaml"))
    typed = [file for file in files if re.search(rf"\b{file.stem}\b", " ".join(sys.argv[1:]))]
    for file in typed or files:
        line = re.search(rf"^ *{re.escape(key)}: \?\?\? *#? *(.*)$", file.read_text(encoding="utf-8"), re.M)
        if line:
            what = f": {line[1]}" if line[1] else ""
            where = f"; in a comparison by {_for_all(name)}" if Path(sys.argv[0]).stem == "compare" else ""
            return f"{name} must be given{what} (conf/{group}/{file.name}){where}"
    return f"{name} must be given; its file in conf/ says what it is"


def _elsewhere(name: str) -> str:
    """Where a setting belongs that a command does not have at all; "" where that is not known."""
    script, group, key = Path(sys.argv[0]).stem, *name.partition(".")[::2]
    if script == "compare" and key and (CONF / group).is_dir():
        value = next((word.partition("=")[2] for word in sys.argv if word.lstrip("+").startswith(f"{name}=")), "<value>")
        return f"of the runs of a comparison it is set by {_for_all(name, value)}"
    typed = [word.partition("=")[0] for word in sys.argv]
    if script == "finetune" and key and (CONF / group).is_dir() and group not in typed:
        fitting = [choice for choice in choices_of(group) if key.partition(".")[0] in read_choice(group, choice)]
        return f"it goes with a choice of {group} that has it: {', '.join(fitting)}" if fitting else ""
    others = [other for other in ("train", "finetune", "compare") if other != script]
    having = [f"{other}.py" for other in others if re.search(rf"^{re.escape(group)}:", _file(other), re.M)] if not key else []
    having += ["compare.py"] if name == "plan" else []
    return f"it is one of {' and '.join(having)}" if having else ""


def _for_all(name: str, value: str = "<value>") -> str:
    """The word of compare.py that sets something of all runs, as a shell takes it."""
    plain = value == "<value>" or re.fullmatch(r"[\w./-]+", value, re.ASCII)
    return f"'settings={{all:{{{name}:{value if plain else in_double_quotes(value)}}}}}'"


def _file(command: str) -> str:
    return (CONF / f"{command}.yaml").read_text(encoding="utf-8")


def _where_missing(parent: str, key: str) -> tuple[str, list[str]]:
    """('with objective=simclr ', the settings at `parent`): of the choices of a sweep the first where `key` is none of them."""
    words = [word.partition("=")[::2] for word in sys.argv[1:]]
    chosen = [f"{group}={value}" for group, value in words if group in groups_of(sys.argv[0]) and "," not in value]
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
