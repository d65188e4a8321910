"""What a tokenizer's ids mean to an objective: which are special, which may be drawn, which begin a word."""

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

CONTINUES = "##"  # WordPiece marks what continues a word
SPACE = "▁"  # SentencePiece marks what begins one
WHITE = ("Ġ", "Ċ")  # and byte-level BPE, by what it writes for a space and a line's end
BYTE = re.compile("<0x([0-9A-F]{2})>")  # of SentencePiece, where a character is no piece
VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that byte-level BPE (GPT-2) writes as they are
BYTES = {chr(byte): byte for byte in VISIBLE} | {
    chr(256 + i): byte for i, byte in enumerate(sorted(set(range(256)) - set(VISIBLE)))
}
UNFINISHED = "\ufffd"  # a character that does not begin, or not end, in a piece


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, and after its own ids those of `num_sentinels` sentinels.

    Sentinels (T5) are no pieces of text: they lie behind the tokenizer's ids, so that the token stream of a corpus is the
    same with and without them.

    Attributes:
        tokenizer: a fast tokenizer of transformers.
        num_sentinels: how many ids follow for span corruption.
    """

    tokenizer: PreTrainedTokenizerFast
    num_sentinels: int = 0

    @property
    def size(self) -> int:
        """Rows that an embedding needs."""
        return len(self.tokenizer) + self.num_sentinels

    @property
    def pad(self) -> int:
        """Fills rows up; a tokenizer without one pads with its end token, which attention masks hide."""
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.end

    @property
    def mask(self) -> int | None:
        return self.tokenizer.mask_token_id

    @property
    def start(self) -> int | None:
        """[CLS] or <s>: begins a block or a sentence."""
        return first_set(self.tokenizer.cls_token_id, self.tokenizer.bos_token_id)

    @property
    def end(self) -> int | None:
        """[SEP] or </s>: ends a document or a sentence."""
        return first_set(self.tokenizer.sep_token_id, self.tokenizer.eos_token_id)

    def recipe(self) -> dict[str, Any]:
        """What is needed to build it again, in plain containers: a tokenizer.json, the roles of special tokens, sentinels."""
        return {
            "num_sentinels": self.num_sentinels,
            "tokenizer": self.tokenizer.backend_tokenizer.to_str(),
            "special_tokens": {
                name: str(token) for name, token in self.tokenizer.special_tokens_map.items() if isinstance(token, str)
            },
        }

    @property
    def sentinels(self) -> list[int]:
        """In order of use, descending from the last id (Raffel et al. 2020)."""
        return list(range(self.size - 1, self.size - 1 - self.num_sentinels, -1))

    @cached_property
    def ordinary(self) -> np.ndarray:
        """(V,) bool: pieces of text, that is, neither special nor a sentinel."""
        ordinary = np.ones(self.size, bool)
        ordinary[len(self.tokenizer) :] = False
        ordinary[self.tokenizer.all_special_ids] = False
        return ordinary

    @cached_property
    def begins_word(self) -> np.ndarray:
        """(V,) bool: pieces that cannot continue the word before them; specials and punctuation stand alone."""
        pieces = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        ordinary = [piece for piece, is_ordinary in zip(pieces, self.ordinary, strict=False) if is_ordinary]
        if isinstance(self.tokenizer.backend_tokenizer.model, WordPiece):
            begins = word_piece_begins
        elif any(piece.startswith(SPACE) for piece in ordinary):
            begins = sentence_piece_begins
        elif any(piece.startswith(WHITE) for piece in ordinary):
            begins = byte_piece_begins
        else:
            begins = word_piece_begins
        found = [begins(piece) for piece in pieces] + [True] * self.num_sentinels
        return np.array(found) | ~self.ordinary


def word_piece_begins(piece: str) -> bool:
    return not piece.startswith(CONTINUES)


def sentence_piece_begins(piece: str) -> bool:
    byte = BYTE.fullmatch(piece)
    if byte is None:
        return begins_word(piece.replace(SPACE, " "))
    return begins_word(bytes([int(byte[1], 16)]).decode(errors="replace"))


def byte_piece_begins(piece: str) -> bool:
    if not BYTES.keys() >= set(piece):  # an added token, which is written as it is
        return begins_word(piece)
    return begins_word(bytes(BYTES[character] for character in piece).decode(errors="replace"))


def begins_word(text: str) -> bool:
    """Whether text cannot continue a word: it begins with neither a letter or digit, nor an accent, nor inside a character."""
    first = text[:1]
    return not (first.isalnum() or first == UNFINISHED or unicodedata.category(first or " ").startswith("M"))


def first_set(*ids: int | None) -> int | None:
    """The first that is not None."""
    return next((number for number in ids if number is not None), None)
