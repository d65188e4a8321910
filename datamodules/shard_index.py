"""What is in a shard, found out once: an index of its samples, so that a tar can be read in any order.

A shard is a plain tar in which the files of a sample follow each other and share their name up to its first dot
(WebDataset's convention): a.jpg, a.json, b.jpg, b.json. One pass notes where the members lie; nothing is extracted. What
cannot be used is counted by reason and left out.
"""

import hashlib
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from datamodules.cache import alone, cache_folder, keep
from datamodules.files import DAMAGE
from datamodules.shard_files import ShardFile
from datamodules.shard_sample import Fields, Member, Sample
from errors import BadInput

FORMAT = 2  # another number makes anew what is in the cache
IGNORED = "tar entries ignored (links, devices, unsafe or nameless files)"
WITHOUT_IMAGE, WITHOUT_TEXT = "samples without an image skipped", "samples without a text skipped"
EMPTY_TEXT, BROKEN_JSON = "samples with an empty text skipped", "samples with unreadable JSON skipped"
CUT = "shards cut off or damaged: what follows is lost"
BEHIND = "shards that go on behind the end of their tar: what follows is not read"


@dataclass(frozen=True)
class Index:
    """The usable samples of a shard, in its order.

    Attributes:
        image, text: (n, 2) int64, offset and size of the member that holds it.
        text_field: (n,) which of `Fields.text` it is.
        label: (n,) int64 into label_names, -1 for none.
        label_names: as written.
        content: hash of all texts.
        extensions: of members -> how many.
        problems: what could not be used -> how often.
    """

    image: np.ndarray
    text: np.ndarray
    text_field: np.ndarray
    label: np.ndarray
    label_names: tuple[str, ...]
    content: str
    extensions: dict[str, int]
    problems: dict[str, int]


def index_of(shard: ShardFile, fields: Fields, cache: str | None = None) -> Index:
    """The index of a shard, from the cache where it did not change since.

    Raises:
        BadInput: it is not a tar, or cannot be read, or the index cannot be written.
    """
    try:
        stat = os.stat(shard.path)
        content = [FORMAT, os.path.realpath(shard.path), stat.st_size, stat.st_mtime_ns]
        key = hashlib.sha256(json.dumps([*content, fields.image, fields.text, fields.label]).encode()).hexdigest()[:24]
        path = cache_folder(cache, "indices") / f"{key}.npz"
        with alone(path):
            found = _load(path)
            if found is None:
                found = scan(shard, fields)
                _save(found, path)
    except OSError as error:
        raise BadInput(f"'{shard.name}' or its index in the cache cannot be used: {error}") from error
    return found


def scan(shard: ShardFile, fields: Fields) -> Index:
    """The index of a shard, by reading it."""
    problems: Counter = Counter()
    extensions: Counter = Counter()
    rows: list[tuple[Member, Member, int, str | None]] = []
    content = hashlib.sha256()
    with open(shard.path, "rb") as file:
        for members in _samples(file, shard, problems):
            extensions.update(list(members))
            sample = Sample(members, lambda at: os.pread(file.fileno(), at[1], at[0]), problems)
            try:
                image = sample.member(fields.image)
                text, number, strings = sample.text(fields.text)
                label = sample.label(fields.label)
            except (ValueError, RecursionError):
                problems[BROKEN_JSON] += 1
                continue
            if fields.image is not None and image is None:
                problems[WITHOUT_IMAGE] += 1
            elif fields.text is not None and not strings:
                problems[WITHOUT_TEXT if strings is None else EMPTY_TEXT] += 1
            else:
                rows.append((image or (0, 0), text or (0, 0), number, label))
                content.update("\0".join([*(strings or ()), "\0"]).encode())
    names = tuple(dict.fromkeys(label for *_, label in rows if label is not None))
    place = {name: i for i, name in enumerate(names)} | {None: -1}
    return Index(
        np.array([row[0] for row in rows], np.int64).reshape(-1, 2),
        np.array([row[1] for row in rows], np.int64).reshape(-1, 2),
        np.array([row[2] for row in rows], np.int8),
        np.array([place[row[3]] for row in rows], np.int64),
        names,
        content.hexdigest(),
        dict(extensions),
        dict(problems),
    )


def _samples(file: BinaryIO, shard: ShardFile, problems: Counter) -> Iterator[dict[str, Member]]:
    """The members of each sample: extension -> where it is."""
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (the file is closed by its owner)
    except tarfile.TarError as error:
        packed = file.seek(0) == 0 and file.read(2) in (b"\x1f\x8b", b"BZ", b"\xfd7", b"(\xb5")
        reason = "is compressed; shards are read in random order, so unpack it to a plain .tar" if packed else "is not a tar"
        raise BadInput(f"'{shard.name}' {reason} ({error})") from error
    key, members = None, {}
    for name, at in _files(archive, problems):
        stem, extension = _split(name)
        if members and (stem != key or extension in members):
            yield members
            members = {}
        key = stem
        members[extension] = at
    if not _ended(file, archive.offset):  # then the last sample may have lost its end, or a member
        problems[CUT] += 1
        return
    if members:
        yield members
    if _goes_on(file):
        problems[BEHIND] += 1


def _files(archive: tarfile.TarFile, problems: Counter) -> Iterator[tuple[str, Member]]:
    """(name, place) of the regular files up to the end of the archive, or to what is no tar any more."""
    try:
        while (entry := archive.next()) is not None:
            archive.members = []  # else it keeps them all
            if entry.size < 0:  # would lead back, and round in circles
                return
            if entry.isdir():
                continue
            if entry.isreg() and not entry.issparse() and _split(entry.name) is not None:
                yield entry.name, (entry.offset_data, entry.size)
            else:
                problems[IGNORED] += 1
    except (tarfile.TarError, ValueError, OverflowError):
        return


def _split(name: str) -> tuple[str, str] | None:
    """(what the files of a sample share, extension in lower case); None for what is no file of a sample."""
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    if path.is_absolute() or ".." in path.parts or not (stem and extension):
        return None
    return str(path.parent / stem), extension.lower()


def _ended(file: BinaryIO, offset: int) -> bool:
    """Whether the mark of a tar's end is there, a block of zeros; where it is not, nobody knows what is missing."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    return block != b"" and not block.strip(b"\0")


def _goes_on(file: BinaryIO) -> bool:
    """Whether anything but zeros follows: a second tar, for example, that `cat` put there."""
    return any(block.strip(b"\0") for block in iter(lambda: file.read(1 << 20), b""))


def _load(path: Path) -> Index | None:
    """None where there is none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            facts = json.loads(str(arrays["facts"]))
            facts["label_names"] = tuple(facts["label_names"])
            return Index(**{name: arrays[name] for name in ("image", "text", "text_field", "label")}, **facts)
    except (*DAMAGE, ValueError, LookupError, TypeError):
        return None


def _save(index: Index, path: Path) -> None:
    facts = {name: getattr(index, name) for name in ("label_names", "content", "extensions", "problems")}
    arrays = {name: getattr(index, name) for name in ("image", "text", "text_field", "label")}
    unfinished = path.with_suffix(".unfinished")
    with open(unfinished, "wb") as file:
        np.savez(file, facts=np.array(json.dumps(facts)), **arrays)
    keep(unfinished, path)
