"""Which shards a pattern means, and where they lie: on this machine, or fetched once from wherever fsspec reads.

A shard of an object store is copied whole into the cache before it is read: samples come in random order, and a request
for each would take longer than the picture's forward and backward pass.
"""

import glob
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from braceexpand import UnbalancedBracesError, braceexpand
from fsspec.implementations.local import LocalFileSystem

from datamodules.cache import alone, cache_folder
from errors import BadInput

log = logging.getLogger(__name__)

SHOWN = 5  # missing shards that a message names


@dataclass(frozen=True)
class ShardFile:
    """One shard.

    Attributes:
        name: as it is shown: the path or the address.
        path: on this machine.
    """

    name: str
    path: str


def shard_files(patterns: str | list[str], setting: str, cache: str | None = None) -> list[ShardFile]:
    """The shards, in the order of the patterns, each once.

    Args:
        patterns: paths or addresses (s3://, gs://, https://, ...) with braces, {00..04} or {a,b}, or as globs.
        setting: for messages, "datamodule.shards".
        cache: the folder below which fetched shards are kept.

    Raises:
        BadInput: a pattern matches nothing, or shards that it names are not there.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns or [])
    found: dict[str, ShardFile | tuple[Any, str, dict]] = {}
    missing: list[str] = []
    for pattern in patterns:
        matched = [name for one in _expanded(pattern, setting) for name in _matching(one, setting)]
        if not matched:
            raise BadInput(f"{setting}='{pattern}' matches no shard")
        for name in matched:
            system, path = _system(name, setting)
            if isinstance(system, LocalFileSystem):
                there = ShardFile(name, path) if os.path.isfile(path) else None
            else:
                facts = _facts(system, path, name)
                there = None if facts is None else (system, path, facts)
            missing += [name] if there is None else []
            found[name] = there
    if not found:
        raise BadInput(f"{setting} names no shard; give paths like train-{{000..099}}.tar")
    if missing:
        shown = ", ".join(f"'{name}'" for name in missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        raise BadInput(f"{setting}: {len(missing)} of {len(found)} shards are missing: {shown}")
    return [there if isinstance(there, ShardFile) else _fetched(name, *there, cache) for name, there in found.items()]


def _expanded(pattern: str, setting: str) -> list[str]:
    if pattern.startswith("pipe:"):
        raise BadInput(f"{setting}='{pattern}' would run a shell command, which shards never do; give a path or an address")
    try:
        return list(braceexpand(pattern, escape=False))
    except UnbalancedBracesError as error:
        raise BadInput(f"{setting}='{pattern}' has unbalanced braces") from error


def _matching(name: str, setting: str) -> list[str]:
    """The name itself, or what it matches as a glob, sorted."""
    system, path = _system(name, setting)
    if isinstance(system, LocalFileSystem):
        literal = os.path.exists(path) or not glob.has_magic(path)
        return [name] if literal else sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))
    if "*" not in path:  # a ? begins the query of a signed address
        return [name]
    try:
        return sorted(system.unstrip_protocol(match) for match in system.glob(path))
    except Exception as error:  # of whatever the store's client raises
        raise _unreachable(name, error) from error


def _system(name: str, setting: str) -> tuple[Any, str]:
    """(fsspec's file system, the path on it); local paths stay as they are given."""
    if "://" not in name:
        return LocalFileSystem(), os.path.expanduser(name)
    try:
        return fsspec.core.url_to_fs(name)
    except ImportError as error:
        raise BadInput(f"{setting}='{name}': {error}") from error
    except Exception as error:  # an unknown protocol, or what a client raises when it finds no credentials
        raise _unreachable(name, error) from error


def _facts(system: Any, path: str, name: str) -> dict | None:
    """Size and what else the store says; None where there is no such file."""
    try:
        return system.info(path)
    except FileNotFoundError:
        return None
    except Exception as error:
        raise _unreachable(name, error) from error


def _unreachable(name: str, error: Exception) -> BadInput:
    return BadInput(f"'{name}' cannot be reached: {type(error).__name__}: {' '.join(str(error).split())[:160]}")


def _fetched(name: str, system: Any, path: str, facts: dict, cache: str | None) -> ShardFile:
    """A copy in the cache, made first where there is none of this size and version."""
    size = facts.get("size")
    key = hashlib.sha256(f"{name} {size} {system.ukey(path)}".encode()).hexdigest()[:24]
    copy = cache_folder(cache, "shards") / f"{key}.tar"
    with alone(copy):
        if not copy.exists():
            log.warning("fetching %s", name)
            unfinished = copy.with_suffix(".unfinished")
            try:
                system.get_file(path, str(unfinished))
            except Exception as error:
                unfinished.unlink(missing_ok=True)
                raise _unreachable(name, error) from error
            if size is not None and unfinished.stat().st_size != size:
                raise BadInput(f"'{name}' came incomplete: {unfinished.stat().st_size} of {size} bytes; try again")
            Path(unfinished).replace(copy)
    return ShardFile(name, str(copy))
