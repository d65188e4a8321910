"""Running text as documents in splits, read as a stream: what a tokenizer is trained on and a token stream is made of.

A corpus may be larger than memory and a document too, so a document is an iterable of pieces. They are cut where white
space begins, which no tokenizer merges over from the left, so pieces give the tokens that the whole text would give.
"""

import logging
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from errors import BadInput

log = logging.getLogger(__name__)

PIECE = 1 << 16  # characters of a document that are looked at together
SPLITS = ("train", "val", "test")
CUT = len(SPLITS)  # a document whose beginning trains and whose end validates
FEW = 20  # so many documents are enough to validate on whole ones
INVALID, NUL = "invalid UTF-8 sequences replaced", "NUL characters dropped"


@dataclass(frozen=True)
class Document:
    """Text that belongs together, in pieces that follow each other; `split` where the collection says one."""

    pieces: Iterable[str]
    split: str | None = None


@dataclass(frozen=True)
class Survey:
    """A first reading of a corpus.

    Attributes:
        num_bytes: (num,) UTF-8 bytes of each document; 0 for those that hold nothing but white space.
        splits: (num,) index into SPLITS, or CUT.
        problems: what could not be used as it was -> how often.
    """

    num_bytes: np.ndarray
    splits: np.ndarray
    problems: dict[str, int]


class Corpus:
    """Documents and their splits.

    With at least 20 documents without a split of their own, a random `val_fraction` of them validates; with fewer, the
    last `val_fraction` of each one's bytes does, from the next white space on.

    Args:
        name: for messages.
        identity: what can be written as JSON and changes whenever the text does.
        read: counter of problems -> the documents, in the same order each time; it may count problems of its own.
        val_fraction, split_seed: of the validation split.
    """

    def __init__(
        self,
        name: str,
        identity: object,
        read: Callable[[Counter], Iterator[Document]],
        val_fraction: float,
        split_seed: int,
    ):
        if not 0 < val_fraction < 1:
            raise BadInput(f"datamodule.val_fraction must lie between 0 and 1, not {val_fraction}")
        self.name, self.read = name, read
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self.identity = [identity, val_fraction, split_seed]

    @cached_property
    def survey(self) -> Survey:
        """One reading of everything, in memory that does not grow with the text; says what is wrong with it."""
        problems: Counter = Counter()
        sizes, given = array("q"), array("b")
        for document in self.read(problems):
            sizes.append(sum(size * bool(text.strip()) for text, size in _pieces(document, problems)))
            given.append(-1 if document.split is None else SPLITS.index(document.split))
        num_bytes, splits = np.array(sizes, np.int64), np.array(given, np.int8)
        for problem, count in problems.items():
            log.warning("'%s': %d %s", self.name, count, problem)
        if not num_bytes.any():
            raise BadInput(f"'{self.name}' holds no text")
        return Survey(num_bytes, self._with_validation(num_bytes, splits), dict(problems))

    def _with_validation(self, num_bytes: np.ndarray, splits: np.ndarray) -> np.ndarray:
        free = np.flatnonzero((splits < 0) & (num_bytes > 0))
        if SPLITS.index("val") not in splits:
            if len(free) < FEW:
                splits[free] = CUT
            else:
                num_val = max(1, round(self.val_fraction * len(free)))
                splits[np.random.default_rng(self.split_seed).permutation(free)[:num_val]] = SPLITS.index("val")
        splits[splits < 0] = SPLITS.index("train")
        return splits

    def parts(self) -> Iterator[tuple[str, str, int, bool]]:
        """(split, piece, its UTF-8 bytes, whether it ends a document) over the whole corpus.

        The beginning and the end of a document that is cut count as two documents.
        """
        survey = self.survey
        for document, split, num_bytes in zip(self.read(Counter()), survey.splits, survey.num_bytes, strict=False):
            pieces = _pieces(document, Counter())
            if num_bytes == 0:
                for _ in pieces:  # a streamed source goes on only after its document
                    pass
            elif split == CUT:
                yield from _ending(_cut(pieces, round((1 - self.val_fraction) * int(num_bytes))))
            else:
                yield from _ending((SPLITS[split], text, size) for text, size in pieces)

    def training_texts(self, max_bytes: int) -> Iterator[str]:
        """Pieces of the training split; of a larger one `max_bytes`, spread over it."""
        in_train = np.isin(self.survey.splits, (SPLITS.index("train"), CUT))
        share = min(1.0, max_bytes / max(1, int(self.survey.num_bytes[in_train].sum())))
        due = 0.0
        for split, text, _, _ in self.parts():
            if split == "train":
                due += share
                if due >= 1 - 1e-9:
                    due -= 1
                    yield text


def clean(text: str, problems: Counter) -> tuple[str, int]:
    """(text that has an UTF-8 form and no NUL, its bytes)."""
    if "\0" in text:
        problems[NUL] += text.count("\0")
        text = text.replace("\0", "")
    if text.isascii():
        return text, len(text)
    try:
        return text, len(text.encode())
    except UnicodeEncodeError:  # half a surrogate pair, as JSON can hold
        replaced = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        problems[INVALID] += max(1, replaced.count("\ufffd") - text.count("\ufffd"))
        return replaced, len(replaced.encode())


def cuts(text: str, size: int = PIECE) -> Iterator[str]:
    """The text in pieces of about `size` characters, each but the first beginning with white space where there is any."""
    begin = 0
    while len(text) - begin > size:
        end = begin + last_break(text[begin : begin + size])
        yield text[begin:end]
        begin = end
    yield text[begin:]


def last_break(text: str) -> int:
    """Where the last white space begins that has something before it; the whole length where there is none."""
    last = max(text.rfind(" "), text.rfind("\n"))
    return len(text[: last + 1].rstrip(" \t\r\n")) or len(text)


def _pieces(document: Document, problems: Counter) -> Iterator[tuple[str, int]]:
    """(clean piece of bounded size, its bytes)."""
    for text in document.pieces:
        for piece in cuts(text):
            yield clean(piece, problems)


def _cut(pieces: Iterator[tuple[str, int]], boundary: int) -> Iterator[tuple[str, str, int]]:
    """(split, piece, bytes): "train" up to the white space at or after byte `boundary`, then "val"."""
    seen = 0
    for text, size in pieces:
        if seen < boundary < seen + size:
            at = max(1, (boundary - seen) * len(text) // size)  # exact for ASCII
            space = min((place for place in (text.find(" ", at), text.find("\n", at)) if place >= 0), default=at)
            at = space if space < len(text) - 1 else at
            for split, part in (("train", text[:at]), ("val", text[at:])):
                yield split, part, len(part.encode())
        else:
            yield ("train" if seen < boundary else "val"), text, size
        seen += size


def _ending(parts: Iterator[tuple[str, str, int]]) -> Iterator[tuple[str, str, int, bool]]:
    """With the mark of what ends a document: the last part, and the last before another split."""
    previous = None
    for part in parts:
        if previous is not None:
            yield *previous, part[0] != previous[0]
        previous = part
    if previous is not None:
        yield *previous, True
