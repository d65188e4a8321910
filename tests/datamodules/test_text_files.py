"""Files of text in all their wrappings, and what can be wrong with them."""

import gzip
import json
import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from made_text import SMALL, texts

from datamodules.corpus import INVALID, NUL, Corpus
from datamodules.text_files import TextFiles
from datamodules.text_sources import MALFORMED, WITHOUT_TEXT, documents_of, files_of, sources_of
from errors import BadInput

DOCUMENTS = texts(24, words=80, odd=True)


def opened(folder: Path, files, **changes) -> TextFiles:
    settings = {"tokenizer": SMALL, "block_length": 16, "batch_size": 4, "cache": str(folder / "cache")}
    return TextFiles(str(files) if isinstance(files, Path) else files, **(settings | changes))


def read(files, document: str = "file", column: str = "text", problems: Counter | None = None) -> list[str]:
    """Whole documents, in order."""
    problems = Counter() if problems is None else problems
    found = [
        document_of
        for path in files_of(str(files))
        for source in sources_of(path)
        for document_of in map(lambda one: "".join(one.pieces), documents_of(source, document, column, problems))
    ]
    return found


def written(folder: Path, kind: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"documents.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps({"id": i, "text": text}) for i, text in enumerate(DOCUMENTS)), encoding="utf-8")
    elif kind == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        pyarrow = pytest.importorskip("pyarrow")
        parquet.write_table(pyarrow.table({"id": range(len(DOCUMENTS)), "text": DOCUMENTS}), path, row_group_size=5)
    else:
        path.write_text("\n".join(DOCUMENTS) + "\n\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
@pytest.mark.parametrize("wrapping", ["plain", "gz", "zip", "gz in zip"])
def test_records_come_back_from_every_wrapping(kind, wrapping, tmp_path):
    path = written(tmp_path, kind)
    if "gz" in wrapping:
        packed = Path(f"{path}.gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        path = packed
    if "zip" in wrapping:
        with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, f"folder/{path.name}")
            archive.writestr("README.md", "no text of the corpus")
        path.unlink()
        path = tmp_path / "all.zip"
    found = read(tmp_path / "*", document="line")
    assert [text for text in found if text.strip()] == DOCUMENTS
    assert opened(tmp_path, path, document="line").corpus.survey.splits.shape[0] >= len(DOCUMENTS)


def test_plain_text_is_a_file_lines_or_paragraphs(tmp_path):
    text = "\ufeffone\r\ntwo\n \t\n\n  three\n\nfour\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.txt").write_text("five")
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n")
    assert read(tmp_path / "*.txt") == [plain, "five"]
    assert [line.strip() for line in read(tmp_path / "*.txt", "line") if line.strip()] == [
        "one",
        "two",
        "three",
        "four",
        "five",
    ]
    assert read(tmp_path / "*.txt", "paragraph") == ["one\ntwo", "  three", "four\n", "five"]


@pytest.mark.parametrize("document", ["line", "paragraph"])
def test_boundaries_are_found_wherever_the_reading_stops(document, tmp_path, monkeypatch):
    mark = "\n" if document == "line" else "\n \n\n"
    expected = [text.replace("\u00a0", " ") for text in texts(200, words=30, odd=True)]
    (tmp_path / "a.txt").write_text(mark.join(expected), encoding="utf-8")
    for size in (40, 997, 1 << 16):
        monkeypatch.setattr("datamodules.text_sources.PIECE", size)
        assert [text for text in read(tmp_path / "a.txt", document) if text.strip()] == expected


def test_one_huge_line_is_read_in_pieces(tmp_path):
    line = " ".join(texts(500, words=200)) + " " + "x" * 200_000 + "é" * 100_000 + " "
    line = line * (5_000_000 // len(line)) + " ".join(texts(500, words=200))
    (tmp_path / "line.txt").write_text(line, encoding="utf-8")
    (source,) = sources_of(tmp_path / "line.txt")
    (pieces,) = (list(document.pieces) for document in documents_of(source, "line", "text", Counter()))
    assert "".join(pieces) == line
    assert max(map(len, pieces)) <= 1 << 17
    assert len(pieces) > 30
    assert opened(tmp_path, tmp_path / "line.txt", document="line").spec.num_train > 40_000


def test_invalid_utf8_and_nul_bytes_are_counted_and_said(tmp_path, caplog):
    text = "\n".join(DOCUMENTS).encode()
    (tmp_path / "a.txt").write_bytes(text[:300] + b" \xff\xfe whale\0 \xe2\x82 " + text[300:] + " a true \ufffd".encode())
    data = opened(tmp_path, tmp_path / "a.txt", document="line")
    assert data.problems == {INVALID: 3, NUL: 1}
    assert f"'text_files': 3 {INVALID}" in caplog.text


def test_unusable_records_are_counted_and_left_out(tmp_path, caplog):
    path = written(tmp_path, "jsonl")
    path.write_bytes(path.read_bytes() + b'\n{"text": 3}\n\nnot json\n{"text": null}\n[1]\n{"other": 1}\n{"text": "cut')
    data = opened(tmp_path, path)
    assert data.problems == {MALFORMED: 3, WITHOUT_TEXT: 3}
    assert len(data.corpus.survey.splits) == len(DOCUMENTS)
    assert caplog.text.count(MALFORMED) == 1


def test_records_may_begin_with_a_mark_or_without_a_text(tmp_path):
    problems = Counter()
    (tmp_path / "a.jsonl").write_bytes('\ufeff{"text": "the whale"}\n{"text": "\ufeffa ship"}\n'.encode())
    (tmp_path / "b.jsonl").write_bytes(b'{"text": null}\n{"text": "the sea"}\n{"other": 1}\n')
    assert read(tmp_path / "*.jsonl", problems=problems) == ["the whale", "\ufeffa ship", "the sea"]
    assert problems == {WITHOUT_TEXT: 2}


def test_a_change_of_the_files_is_noticed(tmp_path):
    path = written(tmp_path, "txt")
    before = opened(tmp_path, path, document="line")
    same = opened(tmp_path, path, document="line")
    assert same.splits["train"].stream.folder == before.splits["train"].stream.folder
    path.write_text("\n".join([*DOCUMENTS, "one more"]), encoding="utf-8")
    assert opened(tmp_path, path, document="line").splits["train"].stream.folder != before.splits["train"].stream.folder
    stat = path.stat()
    after = opened(tmp_path, path, document="line").splits["train"].stream.folder
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    assert opened(tmp_path, path, document="line").splits["train"].stream.folder != after
    assert opened(tmp_path, path).splits["train"].stream.folder != after  # documents are files now


def test_files_that_differ_only_in_content_have_tokens_of_their_own(tmp_path):
    data = []
    for folder, text in (("a", "the whale is near "), ("b", "the ship is away! ")):  # as from archives that are reproducible
        path = tmp_path / folder / "train.txt"
        path.parent.mkdir()
        path.write_text(text * 400)
        os.utime(path, (315532800, 315532800))
        data.append(opened(tmp_path, path))
    first, second = (one.vocabulary.tokenizer.decode(one.splits["train"].stream.tokens) for one in data)
    assert "whale" in first
    assert "whale" not in second


def test_several_globs_are_one_corpus(tmp_path):
    written(tmp_path / "a", "txt")
    written(tmp_path / "b", "jsonl")
    data = opened(tmp_path, [str(tmp_path / "*" / "*.txt"), str(tmp_path / "**" / "*.jsonl"), str(tmp_path / "a" / "*")])
    assert len(data.corpus.survey.splits) == 1 + len(DOCUMENTS)


def test_a_file_that_is_there_is_meant_as_it_is_written(tmp_path):
    (tmp_path / "novel [1].txt").write_text("a file with the characters of a glob")
    (tmp_path / "novel 1.txt").write_text("what the glob would find")
    assert read(tmp_path / "novel [1].txt") == ["a file with the characters of a glob"]
    assert read(tmp_path / "novel [0-9].txt") == ["what the glob would find"]


def test_what_macos_puts_into_a_zip_is_no_text(tmp_path):
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
        archive.writestr("corpus/a.txt", "the whale")
        archive.writestr("corpus/._a.txt", b"\0\5\x16\7")
        archive.writestr("__MACOSX/corpus/._a.txt", b"\0\5\x16\7")
    assert read(tmp_path / "mac.zip") == ["the whale"]


def test_what_cannot_be_used_is_said_in_one_line(tmp_path):
    path = written(tmp_path, "jsonl")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "text.doc").write_text("x")
    (tmp_path / "bad.zip").write_bytes(b"PK")
    (tmp_path / "bad.txt.gz").write_bytes(b"no gzip")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"the whale " * 1000)[:30])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("picture.png", b"")
    with zipfile.ZipFile(tmp_path / "locked.zip", "w") as archive:
        archive.writestr("a.txt", "the whale " * 100)
        archive.filelist[0].flag_bits |= 1  # as of one that has a password
    with zipfile.ZipFile(tmp_path / "patched.zip", "w") as archive:
        archive.writestr("a.txt", "the whale " * 100)
        archive.filelist[0].flag_bits |= 32  # which zipfile has no code for
    for files, changes, message in (
        (tmp_path / "*.md", {}, r"files='.*\*.md' matches no file"),
        (tmp_path, {}, r"files='.*' is a folder; say which files in it: '.*/\*\*/\*\.txt'"),
        ([], {}, "needs datamodule.files"),
        (tmp_path / "empty.txt", {}, "holds no text"),
        (tmp_path / "text.doc", {}, r"text.doc' is none of the known kinds: \.txt, \.jsonl, \.parquet"),
        (tmp_path / "bad.zip", {}, "is not a readable .zip"),
        (tmp_path / "none.zip", {}, "holds no .txt, .jsonl, .parquet files"),
        (tmp_path / "locked.zip", {}, "locked.zip/a.txt' cannot be read: File 'a.txt' is encrypted, password required"),
        (tmp_path / "patched.zip", {}, "patched.zip/a.txt' cannot be read: compressed patched data"),
        (tmp_path / "bad.txt.gz", {}, "bad.txt.gz' cannot be read"),
        (tmp_path / "cut.txt.gz", {}, "cut.txt.gz' cannot be read"),
        (tmp_path / "bad.parquet", {}, "is not a readable parquet file"),
        (path, {"column": "body"}, "has no text in a column 'body'; columns: id, text"),
        (path, {"document": "page"}, "document='page' is not a kind of document; choices: file, line, paragraph"),
        (written(tmp_path, "parquet"), {"column": "body"}, "has no text in a column 'body'; columns: id, text"),
    ):
        with pytest.raises(BadInput, match=message) as error:
            opened(tmp_path, files, **changes)
        assert "\n" not in str(error.value)


def test_the_survey_and_the_making_read_the_same(tmp_path):
    written(tmp_path, "txt")

    def again(problems):
        return documents_of(sources_of(tmp_path / "documents.txt")[0], "line", "text", problems)

    made = Corpus("lines", [], again, 0.1, 0)
    assert sum(size for _, _, size, _ in made.parts()) == made.survey.num_bytes.sum()
    assert sum(ends for _, _, _, ends in made.parts()) == len(DOCUMENTS)
