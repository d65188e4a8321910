"""Texts to ids, fast: text repeats its words, so a word is tokenised once and looked up from then on.

This is exact where a tokenizer looks at nothing beyond a word. BERT's rules split at white space and make every punctuation
mark a word; GPT-2's never match across the beginning of white space or the end of letters. Any other tokenizer gets the
texts as they are.
"""

import json
import re
from collections.abc import Callable
from itertools import chain, islice

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

WORDS_KEPT, CHARACTERS_KEPT = 1 << 19, 1 << 25  # then the table starts anew, so that memory does not grow with the corpus

# ASCII only, on which all libraries agree; and \S, since Python's idea of what is no white space is the strictest
_mark = r"!-/:-@\[-`{-~"
_bert_words = re.compile(rf"[^ \t\n\r{_mark}]+|[{_mark}]").findall
_byte_level_words = re.compile(  # what matters is where a word ends: after letters before a mark, or before white space
    rf"[ \n]?[A-Za-z]+(?=[ \t\n\r{_mark}])|[ \t\n\r]*[^ \t\n\r]*\S(?=[ \t\n\r])|.+?\S(?=[ \t\n\r])|.+", re.DOTALL
).findall


class FastTokenizing:
    """Texts -> ids, without special tokens; a special token's name in a text is text.

    Args:
        tokenizer: any fast tokenizer.
        by_word: whether words may be looked up; where the tokenizer does not allow it, they are not.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, by_word: bool = True):
        description = tokenizer.backend_tokenizer.to_str()
        self.backend = Tokenizer.from_str(description)
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = True
        self.words = words_of(json.loads(description)) if by_word else None
        self._forget()

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(ids of all texts one after the other (N,) int32, how many each text has (len(texts),) int64)."""
        if self.words is None:
            return self._tokenise(texts)
        if len(self.slots) > WORDS_KEPT or self.characters > CHARACTERS_KEPT:
            self._forget()
        words, counts = [], []
        for text in texts:
            found = self.words(text)
            words += found
            counts.append(len(found))
        known = len(self.slots)
        slots = np.fromiter(map(self.slots.__getitem__, words), np.int64, len(words))
        if len(self.slots) > known:
            self._learn(list(islice(self.slots, known, None)))
        lengths = self.lengths[slots]
        ends = np.concatenate(([0], np.cumsum(lengths)))
        ids = self.ids[np.repeat(self.starts[slots] - ends[:-1], lengths) + np.arange(ends[-1])]
        return ids, np.diff(ends[np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))])

    def _learn(self, words: list[str]) -> None:
        ids, lengths = self._tokenise(words)
        self.starts = np.concatenate((self.starts, len(self.ids) + np.cumsum(lengths) - lengths))
        self.lengths = np.concatenate((self.lengths, lengths))
        self.ids = np.concatenate((self.ids, ids))
        self.characters += sum(map(len, words))

    def _forget(self) -> None:
        self.slots, self.characters = _Slots(), 0
        self.ids, self.starts, self.lengths = np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int64)

    def _tokenise(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        found = [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.array([len(ids) for ids in found], np.int64)
        return np.fromiter(chain.from_iterable(found), np.int32, int(lengths.sum())), lengths


class _Slots(dict):
    """word -> its number; a new word gets the next."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


def words_of(description: dict) -> Callable[[str], list[str]] | None:
    """How a text can be cut so that the ids of its words are the ids of the text; None where it cannot.

    Args:
        description: a tokenizer.json.
    """
    normalizer, cutter = ((description[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer"))
    if description["model"].get("dropout") or any(not token["special"] for token in description["added_tokens"]):
        return None
    if cutter == "BertPreTokenizer" and normalizer in (None, "BertNormalizer", "Lowercase"):
        return _bert_words
    byte_level = {"add_prefix_space": False, "use_regex": True}
    if (
        cutter == "ByteLevel"
        and normalizer in (None, "Lowercase")
        and byte_level.items() <= description["pre_tokenizer"].items()
    ):
        return _byte_level_words
    return None
