"""A tokenizer trained on a corpus: WordPiece as BERT's, byte-level BPE as GPT-2's, or byte-level unigram.

What the trainers of the library `tokenizers` leave to chance is fixed here: the same texts give the same tokenizer.
"""

import json
import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from rich import get_console
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from datamodules.watching import told

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
SMALLEST = {"wordpiece": 64, "bpe": 256 + len(SPECIAL), "unigram": 256 + len(SPECIAL)}  # ids of each kind
TRAINING_BYTES = {"wordpiece": 100_000_000, "bpe": 100_000_000, "unigram": 10_000_000}  # unigram's EM is ten times slower
_endless = re.compile(r"\S{1000}")  # training takes the square of a word's length


def train_tokenizer(kind: str, vocab_size: int, lowercase: bool, texts: Callable[[int], Iterator[str]]) -> Tokenizer:
    """A tokenizer of at most `vocab_size` ids with [PAD] [UNK] [CLS] [SEP] [MASK] as 0 to 4; the same from the same texts.

    bpe and unigram work on bytes, so that any text comes back from its ids as it was (in lower case if asked for).
    """

    def broken_up() -> Iterator[str]:
        return (_endless.sub(r"\g<0> ", text) for text in texts(TRAINING_BYTES[kind]))

    train = {"wordpiece": _wordpiece, "bpe": _bpe, "unigram": _unigram}[kind]
    told(f"training a tokenizer ({kind})")
    tokenizer = train(vocab_size, lowercase, broken_up)
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    start, end = (tokenizer.token_to_id(SPECIAL[name]) for name in ("cls_token", "sep_token"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", start), ("[SEP]", end)]
    )
    return tokenizer


def _wordpiece(vocab_size: int, lowercase: bool, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    # The trainer numbers characters by the order of a randomly seeded hash table, and breaks ties by these numbers: two
    # trainings would differ. Numbered beforehand, as if they were special tokens, they do not.
    alphabet = _alphabet(tokenizer.normalizer, texts())[: (vocab_size - len(SPECIAL)) // 3]
    inside = ["##" + character for character in alphabet if not _stands_alone(character)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL.values(), *alphabet, *inside],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=get_console().is_terminal,
    )
    trained = Tokenizer(tokenizer.model)
    trained.normalizer, trained.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    trained.train_from_iterator(texts(), trainer)
    tokenizer.model = models.WordPiece(trained.get_vocab(), unk_token="[UNK]")
    return tokenizer


def _bpe(vocab_size: int, lowercase: bool, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    tokenizer = _byte_level(models.BPE(), lowercase)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=get_console().is_terminal,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def _unigram(vocab_size: int, lowercase: bool, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    tokenizer = _byte_level(models.Unigram(), lowercase)
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        unk_token="[UNK]",
        show_progress=get_console().is_terminal,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    # Its sums run in the order of a randomly seeded hash table, and unseen bytes get steps of 0.0001 above the lowest score
    # in that order too: rounded, with the lowest score for these bytes, and sorted, the pieces are the same every time.
    found = json.loads(tokenizer.to_str())["model"]["vocab"]
    pieces = {piece: round(score, 6) for piece, score in found if piece not in SPECIAL.values()}
    lowest = min(pieces.values())
    unseen = {piece: lowest for piece, score in pieces.items() if len(piece) == 1 and score < lowest + 257 * 1e-4}
    ordered = sorted((pieces | unseen).items(), key=lambda pair: (-pair[1], pair[0]))
    tokenizer.model = models.Unigram([(name, 0.0) for name in SPECIAL.values()] + ordered, unk_id=1)
    return tokenizer


def _byte_level(model: models.Model, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(model)
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _alphabet(normalizer: normalizers.Normalizer, texts: Iterable[str]) -> list[str]:
    """The characters of normalised texts, the most frequent first."""
    counts = np.zeros(0x110000, np.int64)
    for text in texts:
        points = np.frombuffer(normalizer.normalize_str(text).encode("utf-32-le"), np.uint32)
        if len(points):
            found = np.bincount(points)
            counts[: len(found)] += found
    frequent = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    return [character for character in map(chr, frequent) if not character.isspace()]


def _stands_alone(character: str) -> bool:
    """Whether BERT's rules make it a word of its own, so that it never continues one."""
    return character in string.punctuation or unicodedata.category(character).startswith("P")
