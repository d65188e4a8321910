"""Tokenizers: trained ones are the same every time and lose nothing; selected ones are taken as they are."""

import subprocess
import sys
from pathlib import Path

import pytest
from made_text import ODD, SMALL, texts
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from datamodules.tokenizer import load_tokenizer, tokenizer_for, wrapped
from datamodules.tokenizer_training import SPECIAL, train_tokenizer
from datamodules.vocabulary import BYTES, Vocabulary
from errors import BadInput

KINDS = ("wordpiece", "bpe", "unigram")


def trained(kind: str, tmp_path: Path, lowercase: bool = True, documents: list[str] | None = None):
    documents = documents or texts(odd=True)
    settings = {"kind": kind, "vocab_size": 320, "lowercase": lowercase}
    return tokenizer_for(settings, lambda limit: iter(documents), documents, str(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_tokenizer_has_the_special_tokens_first_and_no_more_ids_than_asked_for(kind, tmp_path):
    tokenizer = trained(kind, tmp_path)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL.values())) == [0, 1, 2, 3, 4]
    assert len(tokenizer) <= 320
    vocabulary = Vocabulary(tokenizer)
    assert (vocabulary.pad, vocabulary.start, vocabulary.end, vocabulary.mask) == (0, 2, 3, 4)
    assert vocabulary.ordinary.sum() == len(tokenizer) - 5
    assert tokenizer("the whale", "the sea")["input_ids"].count(3) == 2


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_bytes_lose_nothing(kind, lowercase, tmp_path):
    tokenizer = trained(kind, tmp_path, lowercase)
    for text in ["  two  spaces\n\n\tand lines\r\n", "never seen: Ωß\u2028☃ ﷺ", *(word.lower() for word in ODD)]:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert tokenizer.decode(ids) == (text.lower() if lowercase else text)


def test_words_are_found_by_both_kinds_of_marks(tmp_path):
    for kind in KINDS:
        vocabulary = Vocabulary(trained(kind, tmp_path))
        ids = vocabulary.tokenizer("so the captain, old", add_special_tokens=False)["input_ids"]
        begins = vocabulary.begins_word[ids[1:]]  # byte-level marks the space before: the first has none
        assert begins.sum() == 4, kind  # the, captain, the comma, old


@pytest.mark.parametrize("kind", KINDS)
def test_words_outside_ascii_are_whole(kind, tmp_path):
    text = "the café, привет мир naïve 你好 नमस्ते ☃ end"
    documents = texts(odd=True) + ([text] * 40 if kind == "wordpiece" else [])  # others spell what they never saw in bytes
    vocabulary = Vocabulary(trained(kind, tmp_path, lowercase=False, documents=documents))
    found = vocabulary.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    begins = vocabulary.begins_word[found["input_ids"]]
    starts = {first + text[first:].startswith(" ") for (first, _), b in zip(found["offset_mapping"], begins, strict=True) if b}
    # byte-level marks the space before a word: the first has none; BERT's rules make each of 你好 a word
    expected = {text.index(word) for word in ("café", ",", "привет", "мир", "naïve", "你", "नमस्ते", "☃", "end")}
    assert starts == expected | ({0, text.index("好")} if kind == "wordpiece" else set())


@pytest.mark.parametrize(
    ("begin", "continue_"),
    [
        (("▁the", "▁", ".", "—", "▁é", "<0x2E>"), ("the", "é", "你", "\u0301", "स्", "<0xE2>", "<0xA9>", "<0x61>")),
        (
            ("Ġthe", "Ġ", "Ċ", "ĉ", ".", "Ġ©", "ĠÐ¿", "âĢĶ", "âĺĥ"),
            ("the", "é", "©", "¿", "Ð¿", "Ã©", "ä½łå¥½", "âĢ", "Ķ", "Ìģ"),
        ),
        (("the", "é", "©", "Ġ", "▁"), ("##the", "##é", "##©")),
    ],
    ids=["SentencePiece", "byte-level", "WordPiece"],
)
def test_pieces_that_begin_words(begin, continue_):
    """Of byte-level ones 'Ġ©' is a space and half a character, and '©' the other half of an é."""
    pieces = [*begin, *continue_]
    if "##the" in pieces:
        model = models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="the")
    else:
        model = models.BPE({piece: i for i, piece in enumerate(pieces)}, [])
    vocabulary = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model)))
    assert [piece for piece, found in zip(pieces, vocabulary.begins_word, strict=True) if found] == list(begin)


def test_bytes_of_byte_level_pieces_are_those_of_the_tokenizers_library():
    assert set(BYTES) == set(pre_tokenizers.ByteLevel.alphabet())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for number in (*range(0x250), 0x20AC, 0x1F600):
        if not 0xD800 <= number < 0xE000:
            ((piece, _),) = split.pre_tokenize_str(chr(number))
            assert bytes(BYTES[character] for character in piece).decode() == chr(number)


TWICE = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from made_text import texts
from datamodules.tokenizer_training import train_tokenizer
for kind in sys.argv[3:]:
    print(train_tokenizer(kind, 320, True, lambda limit: iter(texts(odd=True))).to_str())
"""


def test_two_processes_train_the_same_tokenizers():
    here = Path(__file__).parent
    words = [sys.executable, "-c", TWICE, str(here), str(here.parents[1]), *KINDS]
    there = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    there = [line for line in there if line.startswith("{")]  # not what says that one is being trained
    assert there == [train_tokenizer(kind, 320, True, lambda limit: iter(texts(odd=True))).to_str() for kind in KINDS]


def test_what_was_trained_is_not_trained_again(tmp_path):
    def fail(limit: int):
        raise AssertionError

    first = tokenizer_for(SMALL, lambda limit: iter(texts()), "corpus", str(tmp_path))
    second = tokenizer_for(SMALL, fail, "corpus", str(tmp_path))
    assert first.get_vocab() == second.get_vocab()
    with pytest.raises(AssertionError):
        tokenizer_for(SMALL, fail, "another corpus", str(tmp_path))
    with pytest.raises(AssertionError):
        tokenizer_for(SMALL | {"lowercase": False}, fail, "corpus", str(tmp_path))


@pytest.mark.parametrize("form", ["run folder", "folder", "file", "file in a folder"])
def test_a_tokenizer_is_taken_as_it_is(form, tmp_path):
    tokenizer = trained("bpe", tmp_path)
    encoder = tmp_path / "run" / "encoder"
    tokenizer.save_pretrained(encoder)
    if form == "file in a folder":
        (encoder / "tokenizer_config.json").unlink()
    path = {"run folder": encoder.parent, "file": encoder / "tokenizer.json"}.get(form, encoder)
    found = tokenizer_for({"path": str(path)}, None, None, str(tmp_path))
    assert found.get_vocab() == tokenizer.get_vocab()
    assert (found.pad_token_id, found.mask_token_id, found.cls_token_id, found.sep_token_id) == (0, 4, 2, 3)


def test_special_tokens_of_a_bare_file_are_known_by_their_usual_names(tmp_path):
    tokenizer = train_tokenizer("bpe", 300, True, lambda limit: iter(texts()))
    text = (
        tokenizer.to_str()
        .replace("[CLS]", "<s>")
        .replace("[SEP]", "</s>")
        .replace("[PAD]", "<pad>")
        .replace("[MASK]", "<mask>")
    )
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    found = Vocabulary(load_tokenizer(str(tmp_path / "tokenizer.json")))
    assert (found.pad, found.start, found.end, found.mask) == (0, 2, 3, 4)


def test_a_tokenizer_without_special_tokens_can_be_wrapped():
    assert wrapped(train_tokenizer("bpe", 300, True, lambda limit: iter(texts()))).mask_token == "[MASK]"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "wordpeice"}, r"kind='wordpeice' is not known; did you mean wordpiece\? choices: bpe, unigram, wordpiece"),
        ({"vocab_size": 10}, "vocab_size=10 is too small: wordpiece needs at least 64"),
        ({"kind": "bpe", "vocab_size": 200}, "vocab_size=200 is too small: bpe needs at least 261"),
        ({"vocab_size": 10**9}, "vocab_size=1000000000 is too large: at most 1,000,000"),
        ({"vocab_size": [300]}, r"vocab_size must be a whole number, not \[300\]"),
        ({"vocab_size": True}, "vocab_size must be a whole number, not True"),
        ({"path": True}, "path must be a folder, a file or a hub id, not True"),
        ({"path": "./not/there"}, "path='./not/there' does not exist"),
        ({"size": 3}, "no setting 'datamodule.tokenizer.size'"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(settings, message, tmp_path):
    with pytest.raises(BadInput, match=message) as error:
        tokenizer_for(settings, lambda limit: iter(texts()), None, str(tmp_path))
    assert "\n" not in str(error.value)


def test_places_without_a_tokenizer_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(BadInput, match="no tokenizer at"):
        load_tokenizer(str(tmp_path / "empty"))
    with pytest.raises(BadInput, match=r"is no tokenizer\.json"):
        load_tokenizer(str(tmp_path / "bad.json"))
