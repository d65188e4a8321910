"""Shards as one collection of samples that can be read in any order: a sample is a read at an offset of its tar."""

import io
import logging
import os
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import PIL.Image
from PIL.Image import Image

from datamodules.classes import Labels
from datamodules.files import open_picture
from datamodules.samples import Pictures
from datamodules.shard_files import shard_files
from datamodules.shard_index import BEHIND, CUT, Index, index_of
from datamodules.shard_sample import Fields, at_path, decoded, parts_of, strings_of
from datamodules.watching import watched
from errors import BadInput

log = logging.getLogger(__name__)

OPEN_FILES = 128  # a process may open a thousand or so
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # no EPS: reading one would start another program
SPLIT_OF = {"shards": "train", "val_shards": "val", "test_shards": "test"}

Patterns = str | list[str] | None
"""Of shards, as `shard_files` takes them; None for none."""


@dataclass(frozen=True)
class Members:
    """Reads in shards; every process opens them for itself.

    Attributes:
        names: of the shards, for messages.
        paths: of the shards on this machine.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    opened: OrderedDict[int, BinaryIO] = field(default_factory=OrderedDict, repr=False, compare=False)

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Raises OSError where the shard is not there, or not as long, any more."""
        file = self.opened.pop(shard, None) or open(self.paths[shard], "rb", buffering=0)  # noqa: SIM115 (kept open)
        self.opened[shard] = file
        if len(self.opened) > OPEN_FILES:
            self.opened.popitem(last=False)[1].close()
        raw = os.pread(file.fileno(), size, offset)  # has no position, so that forked workers can share the file
        if len(raw) < size:
            raise OSError("the shard has become shorter")
        return raw

    def name(self, shard: int, offset: int) -> str:
        """Of a member, from its header in the tar."""
        name = self.read(shard, offset - 512, 100).split(b"\0")[0]
        return f"{name.decode(errors='replace')} in {os.path.basename(self.names[shard])}"

    def __getstate__(self) -> dict:
        return {"names": self.names, "paths": self.paths, "opened": OrderedDict()}


@dataclass(frozen=True)
class ShardPictures:
    """index -> picture, decoded."""

    members: Members
    shard: np.ndarray
    place: np.ndarray

    def __call__(self, index: int) -> Image:
        at = int(self.shard[index]), *self.place[index].tolist()
        raw = self.members.read(*at)
        try:
            picture = open_picture(io.BytesIO(raw), FORMATS)
            picture.load()
        except Exception as error:  # decoders raise whatever they stumble over; to all who read pictures that is a corrupt one
            reason = "no picture of a known kind" if isinstance(error, PIL.UnidentifiedImageError) else error
            raise OSError(f"{self.members.name(*at[:2])}: {reason}") from error
        return picture


@dataclass(frozen=True)
class ShardTexts:
    """index -> the texts of a sample, of which there is at least one."""

    members: Members
    shard: np.ndarray
    place: np.ndarray
    number: np.ndarray
    fields: tuple[str, ...]

    def __call__(self, index: int) -> tuple[str, ...]:
        extension, path = parts_of(self.fields[self.number[index]])
        shard, problems = int(self.shard[index]), Counter()  # they were counted when the index was made
        try:
            value = decoded(self.members.read(shard, *self.place[index].tolist()), extension, problems)
        except (OSError, ValueError) as error:  # when the index was made, it could be read
            raise BadInput(f"'{self.members.names[shard]}' changed while it was in use: {error}") from error
        return tuple(strings_of(at_path(value, path), problems))


@dataclass(frozen=True)
class Shards:
    """The usable samples of several shards, shard after shard.

    Attributes:
        shard: (num,) in which one each lies.
        labels: as written.
        content: changes whenever a text does.
        problems: what could not be used -> how often.
    """

    members: Members
    fields: Fields
    shard: np.ndarray
    image: np.ndarray
    text: np.ndarray
    text_field: np.ndarray
    labels: Labels
    content: tuple[str, ...]
    problems: Counter

    @property
    def num(self) -> int:
        return len(self.shard)

    def pictures(self, labels: np.ndarray | None) -> Pictures:
        return Pictures(ShardPictures(self.members, self.shard, self.image), self.num, labels, self.shard)

    @property
    def texts(self) -> ShardTexts:
        return ShardTexts(self.members, self.shard, self.text, self.text_field, self.fields.text)


def open_splits(patterns: dict[str, Patterns], fields: Fields, name: str, cache: str | None) -> dict[str, Shards]:
    """The splits of a collection for which there are patterns; says what in them cannot be used.

    Args:
        patterns: setting ("shards", "val_shards", "test_shards") -> patterns as `shard_files` takes them, or None.
        fields: where in a sample its parts are.
        name: of the data set, for messages.
        cache: the folder below which indices and fetched shards are kept.

    Raises:
        BadInput: shards are missing, no tars, in two splits, or have no usable sample.
    """
    splits = {}
    for setting, pattern in patterns.items():
        if pattern or setting == "shards":
            splits[SPLIT_OF[setting]] = _opened(pattern, f"datamodule.{setting}", fields, cache)
    seen: dict[str, str] = {}
    for split, shards in splits.items():
        for path, shown in zip(shards.members.paths, shards.members.names, strict=True):
            if seen.setdefault(os.path.realpath(path), split) != split:
                raise BadInput(f"'{shown}' is in two splits: {seen[os.path.realpath(path)]} and {split}")
    for problem, count in sum((shards.problems for shards in splits.values()), Counter()).items():
        log.warning("'%s': %d %s", name, count, problem)
    return splits


def reported_on(shards: Patterns, val_shards: Patterns, test_shards: Patterns, name: str) -> dict[str, Patterns]:
    """The patterns for `open_splits`, where only two of three are given with the held-out ones as the test split."""
    if val_shards and not test_shards:
        log.warning("'%s': val_shards are the test split, as there are no test_shards; val is carved from shards", name)
        val_shards, test_shards = None, val_shards
    return {"shards": shards, "val_shards": val_shards, "test_shards": test_shards}


def _opened(patterns: Patterns, setting: str, fields: Fields, cache: str | None) -> Shards:
    files = shard_files(patterns, setting, cache)
    indices = [index_of(file, fields, cache) for file in watched(files, f"index of {setting}")]
    numbers = [len(index.label) for index in indices]
    for file, index in zip(files, indices, strict=True):
        if CUT in index.problems:
            log.warning("'%s' is cut off or damaged after %d usable samples", file.name, len(index.label))
        if BEHIND in index.problems:
            log.warning("'%s' goes on behind the end of its tar, perhaps with a second one, which is not read", file.name)
    if not any(numbers):
        raise BadInput(f"{setting}: no sample has {_wanted(fields)}; members: {_members(indices)}")
    names = tuple(dict.fromkeys(name for index in indices for name in index.label_names))
    place = {name: i for i, name in enumerate(names)}
    codes = [np.array([*map(place.get, index.label_names), -1], np.int64)[index.label] for index in indices]  # -1 is the last
    return Shards(
        Members(tuple(file.name for file in files), tuple(file.path for file in files)),
        fields,
        np.repeat(np.arange(len(files), dtype=np.int32), numbers),
        np.concatenate([index.image for index in indices]),
        np.concatenate([index.text for index in indices]),
        np.concatenate([index.text_field for index in indices]),
        Labels(np.concatenate(codes), names),
        tuple(index.content for index in indices),
        sum((Counter(index.problems) for index in indices), Counter()),
    )


def _wanted(fields: Fields) -> str:
    parts = [("an image", fields.image), ("a text", fields.text)]
    return " and ".join(f"{what} ({', '.join(names)})" for what, names in parts if names is not None)


def _members(indices: list[Index]) -> str:
    counts = sum((Counter(index.extensions) for index in indices), Counter())
    return ", ".join(f"{count} .{extension}" for extension, count in counts.most_common(8)) or "none"
