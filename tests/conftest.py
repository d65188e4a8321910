"""Small things that many tests need: pictures on disk, an opened tiny data set, tiny encoders, token rows, real commands."""

import contextlib
import io
import itertools
import os
import runpy
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import PIL.Image
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from datamodules.image_folder import ImageFolder
from datamodules.spec import DataSpec
from datamodules.vocabulary import Vocabulary
from models.text_encoder import TextEncoder
from models.timm_encoder import TimmEncoder

ROOT = Path(__file__).parent.parent
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here is on the hub, and without a network each question takes half a minute
huggingface_hub.constants.HF_HUB_OFFLINE = True  # read already
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it, and hands that on


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """train/ and test/ with three classes that differ in colour: 24 and 8 pictures of 32 px a class."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, num in (("train", 24), ("test", 8)):
        for channel, name in enumerate(("red", "green", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(num):
                array = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                array[..., channel] += 100
                PIL.Image.fromarray(array).save(folder / f"{i:03}.png")
    return root


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    """corpus/*.txt and task/*.tsv."""
    from made_runs import write_texts

    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="session")
def two_ranks():
    """(function of a test module, arguments) -> what it returns on each of two connected processes."""
    from two_ranks import TwoRanks

    ranks = TwoRanks()
    yield ranks
    ranks.end()


@pytest.fixture
def data(pictures) -> ImageFolder:
    return ImageFolder(str(pictures), batch_size=8, val_fraction=0.25)


@pytest.fixture
def spec() -> DataSpec:
    return DataSpec("tiny", "image", 100, 32, 3, ("a", "b", "c"))


@pytest.fixture
def vit(spec) -> TimmEncoder:
    torch.manual_seed(0)
    return TimmEncoder(spec, "vit_tiny_patch16_224", depth=2, positions="sincos")


@pytest.fixture
def resnet(spec) -> TimmEncoder:
    torch.manual_seed(0)
    return TimmEncoder(spec, "resnet18")


def image_batch(num: int = 6, views: int = 2, size: int = 32, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "views": torch.randint(0, 256, (num, views, 3, size, size), dtype=torch.uint8, generator=generator),
        "label": torch.arange(num) % 3,
        "epoch": torch.zeros(num, dtype=torch.long),
        "index": torch.arange(num),
        "corrupt": torch.tensor(0),
    }


def text_spec(block_length: int = 16, num_sentinels: int = 0) -> DataSpec:
    """A WordPiece vocabulary of 5 special ids, 41 pieces that begin a word and 36 that continue one."""
    letters, syllables = "abcdefghijklmnop", ["".join(pair) for pair in itertools.product("bdkmr", "aeio")]
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    pieces = [*special.values(), *".,;:!", *letters, *syllables, *("##" + piece for piece in (*letters, *syllables))]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(special.values()))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    vocabulary = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special), num_sentinels)
    return DataSpec("syllables", "text", 100, block_length=block_length, vocabulary=vocabulary)


PAD, UNK, CLS, SEP, MASK = range(5)
PIECES = range(5, 82)  # of `text_spec`, the ordinary ones


def text_batch(num: int = 6, length: int = 16, seed: int = 0, epoch: int = 0) -> dict[str, torch.Tensor]:
    """Rows of random pieces between [CLS] and [SEP]."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(PIECES.start, PIECES.stop, (num, length), generator=generator)
    ids[:, 0], ids[:, -1] = CLS, SEP
    return {"ids": ids, "epoch": torch.full((num,), epoch), "index": torch.arange(num)}


def text_encoder(architecture: str, spec: DataSpec | None = None, seed: int = 0, **settings) -> TextEncoder:
    """Two blocks of width 32, whose zero biases and unit norms are moved, so that a lost one shows."""
    torch.manual_seed(seed)
    shape = {"width": 32, "depth": 2, "heads": 2, "feedforward": 64} | settings
    encoder = TextEncoder(spec or text_spec(), architecture, **shape)
    jitter(encoder)
    return encoder


@torch.no_grad()
def jitter(module: torch.nn.Module) -> None:
    for weight in module.parameters():
        if weight.ndim == 1:
            weight += 0.1 * torch.randn_like(weight)


def command(script: str, *words: str, cwd: Path, timeout: int = 300) -> subprocess.CompletedProcess:
    """Really run train.py or another command; the output of both streams is in `.stdout`."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        env=os.environ | {"PYTHONWARNINGS": "default"},
    )


def inside(script: str, *words: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run a command as `command` does, but in this process, which has everything imported already."""
    GlobalHydra.instance().clear()
    output, arguments, code = io.StringIO(), sys.argv, 0
    with contextlib.chdir(cwd), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            sys.argv = [str(ROOT / script), *words]
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as ending:
            code = ending.code
        finally:
            sys.argv = arguments
    return subprocess.CompletedProcess([script, *words], code, output.getvalue())


@pytest.fixture
def here(tmp_path):
    """`inside` a folder of the test's own."""
    return partial(inside, cwd=tmp_path)


def error_line(done: subprocess.CompletedProcess) -> str:
    """The one line that a refused command ends with; fails where there is a traceback, no failure or a line of Hydra's."""
    assert done.returncode not in (0, None), done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    assert "Error executing job" not in done.stdout or "-m" in done.args, done.stdout
    line = done.stdout.strip().splitlines()[-1]
    assert line.startswith("error: "), done.stdout
    return line
