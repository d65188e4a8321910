"""How fast a corpus becomes blocks of tokens, and in how much memory: from files to the cache, then every block read once.

Each figure comes from a process of its own. "plain" is the library's encode_batch_fast on the same text without the table
of words; "memory" is what the peak grows by over the imports, for the corpus and for one four times as large. Pages of the
memory-mapped result are left out: the system takes them back when it needs them.

    python benchmarks/tokenise.py                          # 24 MB of made-up text; about a minute on two cores
    python benchmarks/tokenise.py --files 'novels/*.txt'
"""

import argparse
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gate import until_stopped
from datamodules.blocks import Blocks
from datamodules.corpus import Corpus, Document
from datamodules.encode import FastTokenizing
from datamodules.text_sources import documents_of, files_of, sources_of
from datamodules.token_cache import open_tokens
from datamodules.tokenizer import wrapped
from datamodules.tokenizer_training import SMALLEST, train_tokenizer
from datamodules.vocabulary import Vocabulary
from errors import BadInput, nearest

VOCABULARY, BLOCK, TRAINING_BYTES, PLAIN_BYTES = 8192, 128, 2_000_000, 4_000_000


def made_up(folder: Path, megabytes: int = 24, words: int = 60_000) -> str:
    """Text of made-up words as frequent as Zipf's law has them, in files of 1 MB."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    lexicon = np.array(["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(words)])
    frequency = 1 / np.arange(1, words + 1)
    for number in range(megabytes):
        chosen = lexicon[rng.choice(words, 165_000, p=frequency / frequency.sum())]
        lines = [" ".join(chosen[i : i + 12]).capitalize() + "." for i in range(0, len(chosen), 12)]
        (folder / f"{number:03}.txt").write_text("\n".join(lines), encoding="utf-8")
    return str(folder / "*.txt")


def corpus_of(files: str, times: int) -> Corpus:
    sources = [source for path in files_of(files) for source in sources_of(path)]

    def read(problems: Counter) -> Iterator[Document]:
        for _ in range(times):
            for source in sources:
                yield from documents_of(source, "file", "text", problems)

    return Corpus("benchmark", [files, times], read, val_fraction=0.05, split_seed=0)


def measured(tokenizer: str, files: str, times: int) -> tuple[float, float, int]:
    """(megabytes, seconds, bytes of memory that the peak grew by)."""
    vocabulary = Vocabulary(wrapped(Tokenizer.from_file(tokenizer)))
    with tempfile.TemporaryDirectory() as cache, growth() as grown:
        began = time.perf_counter()
        tokens = open_tokens(corpus_of(files, times), vocabulary, cache)
        for stream in tokens.streams.values():
            blocks = Blocks(stream, BLOCK, vocabulary.start, isolate_documents=False)
            for first in range(0, blocks.num, 64):
                blocks.__getitems__([(0, block) for block in range(first, min(first + 64, blocks.num))])
        seconds = time.perf_counter() - began
    return sum(stream.num_bytes for stream in tokens.streams.values()) / 1e6, seconds, max(grown)


@contextmanager
def growth() -> Iterator[list[int]]:
    """What this process's memory has grown by, in bytes, every few milliseconds within the block."""
    before, ended, seen = anonymous_bytes(), threading.Event(), [0]

    def watch() -> None:
        while not ended.wait(0.005):
            seen.append(anonymous_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield seen
    ended.set()
    watcher.join()


def anonymous_bytes() -> int:
    """Of this process, without what is mapped from files."""
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text()).group(1))


def plain(tokenizer: str, files: str) -> float:
    """Megabytes a second of the library alone."""
    encoder = FastTokenizing(wrapped(Tokenizer.from_file(tokenizer)), by_word=False)
    texts = list(corpus_of(files, 1).training_texts(PLAIN_BYTES))
    began = time.perf_counter()
    encoder(texts)
    return sum(len(text.encode()) for text in texts) / 1e6 / (time.perf_counter() - began)


def alone(function, *arguments):
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", help="a glob of .txt, .jsonl, .parquet, .gz or .zip; by default made-up text")
    parser.add_argument("--kinds", default="wordpiece,bpe,unigram")
    chosen = parser.parse_args()
    try:
        for kind in chosen.kinds.split(","):
            if kind not in SMALLEST:
                raise BadInput(f"there is no kind of tokenizer '{kind}'; {nearest(kind, SMALLEST)}")
        if chosen.files:
            files_of(chosen.files)
    except BadInput as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        files = chosen.files or made_up(Path(folder))
        print(f"{'':10}  {'text':>7}  {'speed':>9}  {'plain':>9}  {'memory':>7}  {'of 4 x':>7}")
        for kind in chosen.kinds.split(","):
            tokenizer = str(Path(folder) / f"{kind}.json")
            trained = train_tokenizer(kind, VOCABULARY, True, lambda _: corpus_of(files, 1).training_texts(TRAINING_BYTES))
            trained.save(tokenizer)
            size, seconds, grown = alone(measured, tokenizer, files, 1)
            library = alone(plain, tokenizer, files)
            _, _, grown_4 = alone(measured, tokenizer, files, 4)
            speeds = f"{size / seconds:4.1f} MB/s  {library:4.1f} MB/s"
            print(f"{kind:10}  {size:4.1f} MB  {speeds}  {grown / 1e6:4.0f} MB  {grown_4 / 1e6:4.0f} MB", flush=True)


if __name__ == "__main__":
    sys.exit(until_stopped(main))
