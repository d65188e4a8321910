"""Which shards a pattern means, and where they lie: on this machine, or fetched once from wherever fsspec reads.

A shard of an object store is copied whole into the cache before it is read: samples come in random order, and a request
for each would take longer than the picture's forward and backward pass.
"""

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

import fsspec
from braceexpand import UnbalancedBracesError, braceexpand
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from datamodules.cache import alone, cache_folder, keep
from datamodules.paths import matching
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
    named: dict[tuple[int, str], str] = {}
    systems: dict[int, AbstractFileSystem] = {}
    for pattern in filter(None, patterns):
        matched = [match for one in _expanded(pattern, setting) for match in _matching(one, setting)]
        if not matched:
            raise BadInput(f"{setting}='{pattern}' matches no shard")
        for name, system, path in matched:
            systems[id(system)] = system
            named.setdefault((id(system), path), name)
    if not named:
        raise BadInput(f"{setting} names no shard; give paths like 'train-{{000..099}}.tar'")
    facts = {key: _facts(systems[key[0]], key[1], name) for key, name in named.items()}
    missing = [f"'{named[key]}'" for key, found in facts.items() if found is None]
    if missing:
        shown = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        raise BadInput(f"{setting}: {len(missing)} of {len(facts)} shards are missing: {shown}")
    return [_fetched(named[key], systems[key[0]], key[1], found, cache) for key, found in facts.items()]


def _expanded(pattern: str, setting: str) -> list[str]:
    if pattern.startswith("pipe:"):
        raise BadInput(f"{setting}='{pattern}' would run a shell command, which shards never do; give a path or an address")
    try:
        return list(braceexpand(pattern, escape=False))
    except UnbalancedBracesError as error:
        raise BadInput(f"{setting}='{pattern}' has unbalanced braces") from error


def _matching(name: str, setting: str) -> list[tuple[str, AbstractFileSystem, str]]:
    """(name, file system, path on it) of what a name or a glob means, sorted."""
    if "://" not in name:
        return [(path, LocalFileSystem(), path) for path in matching(name)]
    try:
        system, path = fsspec.core.url_to_fs(name)
        if "*" not in path:  # a ? begins the query of a signed address
            return [(name, system, path)]
        return [(system.unstrip_protocol(match), system, match) for match in sorted(system.glob(path))]
    except ImportError as error:
        raise BadInput(f"{setting}='{name}': {error}") from error
    except Exception as error:  # an unknown protocol, or whatever the store's client raises
        raise _unreachable(name, error) from error


def _facts(system: AbstractFileSystem, path: str, name: str) -> dict[str, Any] | None:
    """Size and what else the store says; None where there is no such file."""
    try:
        found = system.info(path)
    except FileNotFoundError:
        return None
    except Exception as error:
        raise _unreachable(name, error) from error
    return found if found["type"] == "file" else None


def _unreachable(name: str, error: Exception) -> BadInput:
    return BadInput(f"'{name}' cannot be reached: {type(error).__name__}: {' '.join(str(error).split())[:160]}")


def _fetched(name: str, system: AbstractFileSystem, path: str, facts: dict[str, Any], cache: str | None) -> ShardFile:
    """Of what is not on this machine a copy in the cache, made first where there is none of this size and version."""
    if isinstance(system, LocalFileSystem):
        return ShardFile(name, path)
    size = facts.get("size")
    key = hashlib.sha256(f"{system.to_json()} {path} {size} {system.ukey(path)}".encode()).hexdigest()[:24]
    copy = cache_folder(cache, "shards") / f"{key}.tar"
    with alone(copy):
        if not copy.exists() or size not in (None, copy.stat().st_size):
            log.warning("fetching %s", name)
            unfinished = copy.with_suffix(".unfinished")
            try:
                system.get_file(path, str(unfinished))
                found = unfinished.stat().st_size
            except Exception as error:
                unfinished.unlink(missing_ok=True)
                raise _unreachable(name, error) from error
            if size is not None and found != size:
                unfinished.unlink()
                raise BadInput(f"'{name}' came incomplete: {found} of {size} bytes; try again")
            keep(unfinished, copy)
    return ShardFile(name, str(copy))
