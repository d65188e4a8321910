"""Checkpoints on disk: plain containers that cannot run code, whole or not there, and a damaged one found out.

One file; or, of a sharded model, a folder with one file a rank, in which a sharded tensor stands as
{"shard": the rank's rows, "rows": how many there are on all ranks}. Put together both are the same.
(torch.distributed.checkpoint has a format for the second, but its metadata is a pickle, which can run code.)
"""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from errors import BadInput

NEEDED = {"state_dict": dict, "global_step": int, "headstart": dict}  # of what is gone on from, with their types


def rank_file(rank: int) -> str:
    """The name of a rank's part in a sharded checkpoint."""
    return f"rank_{rank:05}.ckpt"


def write_file(checkpoint: dict[str, Any], path: Path) -> None:
    """Write and sync: when this returns, a power cut loses nothing.

    Raises:
        OSError: the disk is full, for example.
    """
    try:
        with open(path, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:  # what torch makes of a failed write hides the reason
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


class PlainFiles(CheckpointIO):
    """How Lightning reads and writes checkpoints here: straight to their place, and never a pickle that could run code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        write_file(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, whole, on the host; nothing in it is ever executed.

    Raises:
        BadInput: missing, cut, not a checkpoint of this project, or holding anything that would run code.
    """
    if path.is_dir():
        checkpoint = _read_ranks(path)
    elif path.is_file():
        checkpoint = _read_file(path)
    else:
        raise BadInput(f"there is no checkpoint '{path}'")
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("headstart"), dict):
        raise BadInput(f"'{path}' is not a checkpoint of a Headstart run")
    return checkpoint


def _read_file(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:  # torch does not look at the checksums that it writes
                raise OSError(f"it is damaged: the checksum of {member} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = "GLOBAL" in str(error) or "Unsupported" in str(error)
        reason = "it holds objects other than plain data, which could run code" if foreign else "it is damaged"
        raise BadInput(f"checkpoint '{path}' is refused: {reason}") from error
    except Exception as error:  # zip, end-of-file, key, memory and runtime errors: the file is cut or something else
        raise BadInput(f"checkpoint '{path}' cannot be read: {' '.join(str(error).split())[:160]}") from error


def _read_ranks(folder: Path) -> Any:
    first = _read_file(folder / rank_file(0)) if (folder / rank_file(0)).is_file() else None
    if not isinstance(first, dict) or not isinstance(first.get("ranks"), int):
        raise BadInput(f"'{folder}' is not a checkpoint of a Headstart run")
    parts = [first]
    for rank in range(1, first["ranks"]):
        if not (folder / rank_file(rank)).is_file():
            raise BadInput(f"checkpoint '{folder}' cannot be read: {rank_file(rank)} of {first['ranks']} is missing")
        parts.append(_read_file(folder / rank_file(rank)))
    try:
        return _put_together(parts)
    except (KeyError, IndexError, TypeError, RuntimeError) as error:
        raise BadInput(f"checkpoint '{folder}' cannot be read: its parts do not belong together ({error!r})") from error


def _put_together(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, dict) and set(first) == {"shard", "rows"}:
        whole = torch.cat([part["shard"] for part in parts])
        if len(whole) != first["rows"]:
            raise RuntimeError(f"{len(whole)} rows instead of {first['rows']}")
        return whole
    if isinstance(first, dict):
        return {
            name: _put_together([value, *(part[name] for part in parts[1:] if isinstance(part, dict) and name in part)])
            for name, value in first.items()
        }
    if isinstance(first, list):
        others = [part for part in parts[1:] if isinstance(part, list)]
        return [_put_together([value, *(part[i] for part in others)]) for i, value in enumerate(first)]
    return first


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """(its path, what it says) of a run's newest checkpoint; a damaged one is reported and the one before it taken.

    Raises:
        BadInput: none is there, or from none training can go on.
    """
    candidates = [folder / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt")]
    present = [path for path in candidates if path.exists()]
    if not present:
        raise BadInput(f"'{folder}' holds no checkpoint to resume from (looked for {candidates[0]})")
    for path in present:
        try:
            point = read_checkpoint(path)
            for name, kind in NEEDED.items():
                if not isinstance(point.get(name), kind):
                    raise BadInput(f"checkpoint '{path}' cannot be gone on from: it has no '{name}'")
            return path, point
        except BadInput as error:
            if path == present[-1]:
                raise
            print(f"warning: {error}; taking the one before it", flush=True)
    raise AssertionError("unreachable: the loop returns or raises")
