"""A command whose wrong input is answered in one line that names the thing, the reason and the choices."""

import ctypes
import errno
import functools
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from conf import CONF
from conf.collector import collect_rarely
from conf.interrupts import INTERRUPTED, ended_within_imports
from errors import BadInput, Elsewhere, RunStopped, nearest

FOLDERS = (  # settings that name one
    "resume", "checkpoint", "report", "folder", "outputs", "model.init", "hydra.run.dir", "hydra.sweep.dir",
)  # fmt: skip
NAME = re.compile(r"(?!null$)[\w.+-]+")  # Hydra would make a number of 7, of 2026_11 and of 1e3
BRACES = re.compile(r"(?<!\$)\{[^{}$:]*(\.\.|,)[^{}:]*\}")  # {00..04} or {a,b}, no dictionary and no interpolation
PARENT = "HEADSTART_PARENT"  # environment variable: the process that started this one and must not be outlived
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def command(main: Callable[[], object]) -> Callable[[], None]:
    """Wrap a `@hydra.main` function: what a user can get wrong ends in one line and a non-zero exit code, no traceback.

    A defect of this project still shows its whole traceback.
    """

    @functools.wraps(main)
    def run() -> None:
        end_with_parent()
        collect_rarely()
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, so that the line below is ours
        sys.argv[1:] = settle_late([quoted(word) for word in sys.argv[1:]])
        try:
            with ended_within_imports():
                main()
        except BadInput as error:
            _exit(_with_notes(error), 2)
        except Elsewhere:
            sys.exit(2)
        except RunStopped as error:
            if error.everywhere and not _is_first_rank():
                sys.exit(error.exit_code)
            _exit(_with_notes(error), error.exit_code)
        except KeyboardInterrupt as error:
            notes = getattr(error, "__notes__", None)
            _exit("; ".join(("interrupted", *notes)) if notes else INTERRUPTED, 130)
        except BrokenPipeError as error:  # of `train.py | head`; what is still in the buffer must not fail again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _exit("; ".join(("the program that read the output has ended", *getattr(error, "__notes__", ()))), 1)
        except Exception as error:
            line = _configuration_error(error) or _no_folder(error)
            if line is not None:
                _exit(line, 2)
            line = _exhausted(error)
            if line is not None:
                _exit(line, 1)
            raise

    return run


def begins_here(resume: str | None) -> bool:
    """Whether this process makes a folder for a new run; torchrun and srun tell the ranks of a run apart."""
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    return resume in (None, "auto") and rank == "0"


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


def end_with_parent() -> None:
    """Let Linux ask this process to stop when the one that started it is gone, even by kill -9.

    Otherwise compare.py, killed and started again, would meet a job that is still at work (elsewhere it waits for such a job),
    and a resumed run the ranks of a launcher that could not tell them.
    """
    parent = os.environ.pop(PARENT, None)
    if (parent is None and "RANK" not in os.environ) or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent is not None and os.getppid() != int(parent):
        sys.exit(128 + signal.SIGTERM)


def settle_late(words: list[str]) -> list[str]:
    """A command line on which settings below a group hold for every job of a sweep over groups.

    Hydra first composes a sweep without its swept groups, and would refuse `model.width=64` in
    `-m objective=mlm,rtd model.width=64`, because the default objective's model has no width. A sweep over one value says the
    same and is looked at only in the jobs.
    """
    groups = _groups()
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


def _groups() -> set[str]:
    return {path.name for path in CONF.iterdir() if path.is_dir()}


def _exit(line: str, code: int) -> None:
    who = "" if _is_first_rank() else f"rank {os.environ['RANK']}: "
    print(f"error: {who}{line}", file=sys.stderr, flush=True)
    sys.exit(code)


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _with_notes(error: BaseException) -> str:
    line = str(error).rpartition("errors.BadInput: ")[2].strip()  # a data worker puts its traceback before it
    return "; ".join((line, *getattr(error, "__notes__", ())))


def _no_folder(error: Exception) -> str | None:
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


def _exhausted(error: Exception) -> str | None:
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


def _configuration_error(error: Exception) -> str | None:
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
        keys = _keys_at(parent)
        return f"there is no setting '{unknown.group(1)}'" + (f"; {nearest(key, keys)}" if keys else "")
    return message


def _keys_at(parent: str) -> list[str]:
    """The keys that the composed configuration has at `parent`, given the group choices on the command line."""
    from conf.composition import compose_settings

    chosen = [word for word in sys.argv[1:] if word.partition("=")[0] in _groups() and "," not in word]
    try:
        node, _ = compose_settings(Path(sys.argv[0]).stem, chosen, complete=False)
        for key in parent.split(".") if parent else []:
            node = node[key]
        return [str(key) for key in node] if isinstance(node, dict) else []
    except Exception:  # the hint is a courtesy: without it the line still names the unknown key
        return []
