"""The token stream of a corpus on disk: made once, memory-mapped ever after.

What is kept is one flat stream of tokens a split, every document followed by the end token. Its key is the corpus, the
splits and the tokenizer, not the block length: blocks are only a way of reading the stream, so that one cache serves them
all. It is made in memory that does not grow with the corpus, in a folder that gets its name only when it is complete, by
one process at a time; a process that comes second waits and opens what the first has made. A damaged one is made again.
"""

import hashlib
import json
import logging
import shutil
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.cache import alone, cache_folder, keep
from datamodules.corpus import SPLITS, Corpus
from datamodules.encode import FastTokenizing
from datamodules.vocabulary import Vocabulary
from datamodules.watching import watched_in_parts
from errors import BadInput

log = logging.getLogger(__name__)

FORMAT = 3  # another number makes anew what is in the cache
BATCH = 1 << 20  # bytes of text that are tokenised together
BLOCK, BLOCKS = 1 << 20, 16  # bytes of a file that are compared with what was written, at so many places


@dataclass
class Stream:
    """One split; the maps are opened by each process for itself.

    Attributes:
        folder: of the cache.
        split: "train", "val" or "test".
        dtype: of the tokens on disk, "uint16" or "uint32".
        num_tokens: end tokens included.
        num_bytes: UTF-8 bytes of the text.
    """

    folder: str
    split: str
    dtype: str
    num_tokens: int
    num_bytes: int

    @cached_property
    def tokens(self) -> np.ndarray:
        """(num_tokens,)."""
        if self.num_tokens == 0:  # nothing cannot be mapped
            return np.empty(0, self.dtype)
        return np.memmap(Path(self.folder) / f"{self.split}.tokens", self.dtype, "r")

    @cached_property
    def document_ends(self) -> np.ndarray:
        """(documents,) int64: where each one's tokens end, its end token included."""
        return np.load(Path(self.folder) / f"{self.split}.ends.npy", mmap_mode="r" if self.num_tokens else None)

    @cached_property
    def document_bytes(self) -> np.ndarray:
        """(documents,) int64: UTF-8 bytes of each one's text."""
        return np.load(Path(self.folder) / f"{self.split}.bytes.npy", mmap_mode="r" if self.num_tokens else None)

    @cached_property
    def token_counts(self) -> np.ndarray:
        """(ids of the tokenizer,) int64: how often each occurs."""
        return np.load(Path(self.folder) / f"{self.split}.counts.npy")

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("folder", "split", "dtype", "num_tokens", "num_bytes")}


@dataclass(frozen=True)
class TokenCache:
    """Attributes:
    streams: split -> its stream, for "train", "val" and "test", some of which may be empty.
    problems: what in the corpus could not be used as it was -> how often.
    """

    streams: dict[str, Stream]
    problems: dict[str, int]


def open_tokens(corpus: Corpus, vocabulary: Vocabulary, cache: str | None = None) -> TokenCache:
    """The token streams of a corpus, made first where they are not in the cache.

    Args:
        corpus: what to tokenise.
        vocabulary: with what; its end token ends documents, where it has one.
        cache: a folder; None is the default one.
    """
    content = [FORMAT, corpus.identity, vocabulary.tokenizer.backend_tokenizer.to_str(), vocabulary.end]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
    folder = cache_folder(cache, "tokens") / key
    with alone(folder):
        found = _read(folder)
        if found is None:
            if folder.exists():
                log.warning("the token cache '%s' is damaged; making it again", folder)
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
            try:
                unfinished.mkdir()
                _make(corpus, vocabulary, unfinished)
                shutil.rmtree(folder, ignore_errors=True)
                keep(unfinished, folder)
            except OSError as error:
                raise BadInput(f"the token cache '{folder}' cannot be written: {error.strerror}") from error
            found = _read(folder)
    if found is None:
        raise BadInput(
            f"the token cache '{folder}' reads other than it was written; is its disk failing? try datamodule.cache="
        )
    return found


def _read(folder: Path) -> TokenCache | None:
    """What is in the cache; None where there is nothing, or a file is not what it was when it was made."""
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        streams = {split: Stream(str(folder), split, facts["dtype"], **facts["streams"][split]) for split in SPLITS}
        size = np.dtype(facts["dtype"]).itemsize
        for split, stream in streams.items():
            if facts["files"][f"{split}.tokens"][0] != stream.num_tokens * size:
                return None
        if any(fingerprint(folder / name) != tuple(known) for name, known in facts["files"].items()):
            return None
        return TokenCache(streams, facts["problems"])
    except (AttributeError, LookupError, OSError, TypeError, ValueError):
        return None


def fingerprint(path: Path) -> tuple[int, int]:
    """(bytes, CRC-32 of what is looked at): of a file of up to BLOCKS blocks all, of a longer one so many, evenly spread.

    So opening takes milliseconds, and what a power cut leaves behind, an end of zeros, is found.
    """
    size, found = path.stat().st_size, 0
    with open(path, "rb") as file:
        for i in range(BLOCKS):
            file.seek(i * max(BLOCK, (size - BLOCK) // (BLOCKS - 1)))
            found = zlib.crc32(file.read(BLOCK), found)
    return size, found


def _make(corpus: Corpus, vocabulary: Vocabulary, folder: Path) -> None:
    dtype = "uint16" if len(vocabulary.tokenizer) <= 1 << 16 else "uint32"
    encoder = FastTokenizing(vocabulary.tokenizer)
    writers = {split: _Writer(folder, split, encoder, vocabulary, dtype) for split in SPLITS}
    total = int(corpus.survey.num_bytes.sum())
    for split, text, size, ends in _watched(corpus.parts(), f"tokenising {corpus.name}", total):
        writers[split].add(text, size, ends)
    facts = {
        "dtype": dtype,
        "streams": {split: writer.close() for split, writer in writers.items()},
        "problems": corpus.survey.problems,
    }
    facts["files"] = {path.name: fingerprint(path) for path in sorted(folder.iterdir())}
    (folder / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


class _Writer:
    """Appends texts to the files of one split, a batch at a time."""

    def __init__(self, folder: Path, split: str, encoder: FastTokenizing, vocabulary: Vocabulary, dtype: str):
        self.folder, self.split, self.encoder, self.end, self.dtype = folder, split, encoder, vocabulary.end, dtype
        self.file = open(folder / f"{split}.tokens", "wb")  # noqa: SIM115 (closed in `close`)
        self.texts, self.sizes, self.ends, self.waiting = [], [], [], 0
        self.document_ends, self.document_bytes = array("q"), array("q")
        self.token_counts = np.zeros(len(vocabulary.tokenizer), np.int64)
        self.num_tokens = self.num_bytes = self.begun_bytes = 0

    def add(self, text: str, size: int, ends: bool) -> None:
        self.texts.append(text)
        self.sizes.append(size)
        self.ends.append(ends)
        self.waiting += size + 32  # a text costs something even where it is empty
        if self.waiting >= BATCH:
            self._write()

    def _write(self) -> None:
        ids, lengths = self.encoder(self.texts)
        ends = np.flatnonzero(self.ends)
        after = np.cumsum(lengths)[ends]
        if self.end is not None:
            ids = np.insert(ids, after, self.end)
            after = after + np.arange(1, len(after) + 1)
        ids.astype(self.dtype).tofile(self.file)
        self.token_counts += np.bincount(ids, minlength=len(self.token_counts))
        self.document_ends.extend((self.num_tokens + after).tolist())
        read = self.begun_bytes + np.cumsum(self.sizes)
        self.document_bytes.extend(np.diff(read[ends], prepend=0).tolist())
        self.begun_bytes = int(read[-1] - (read[ends[-1]] if len(ends) else 0))
        self.num_tokens += len(ids)
        self.num_bytes += sum(self.sizes)
        self.texts, self.sizes, self.ends, self.waiting = [], [], [], 0

    def close(self) -> dict[str, int]:
        if self.texts:
            self._write()
        self.file.close()
        np.save(self.folder / f"{self.split}.ends.npy", np.asarray(self.document_ends, np.int64))
        np.save(self.folder / f"{self.split}.bytes.npy", np.asarray(self.document_bytes, np.int64))
        np.save(self.folder / f"{self.split}.counts.npy", self.token_counts)
        return {"num_tokens": self.num_tokens, "num_bytes": self.num_bytes}


def _watched(parts: Iterable[tuple[str, str, int, bool]], description: str, total: int) -> Iterator[tuple[str, str, int, bool]]:
    """The same parts, told of by their bytes."""
    return watched_in_parts(((part, part[2]) for part in parts), description, total, BATCH // 4)
