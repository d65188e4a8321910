"""Lightning and transformers come without libraries that they would bring, and these come when they are asked for."""

import subprocess
import sys

import pytest
from conftest import ROOT

from training.lean_imports import NEEDLESS, hidden

PROGRAM = f"""
import sys
import training
import lightning.pytorch.loggers
print([name for name in {NEEDLESS["torchmetrics"]} if name in sys.modules])
import datamodules.tokenizer, models.text_nets
print([name for name in {NEEDLESS["torchmetrics"]} if name in sys.modules])
import matplotlib.pyplot, scipy.signal, torchvision.ops, transformers
from torchmetrics.classification import MulticlassAccuracy
import torch
print(MulticlassAccuracy(2, average="micro")(torch.tensor([0, 1]), torch.tensor([0, 0])).item())
net = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=8, n_embd=4, n_layer=1, n_head=1))
ids = torch.tensor([[1, 2, 3]])
print(net(ids, labels=ids).loss.isfinite().item())
"""


def test_each_comes_alone_and_the_others_later():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:4] == ["[]", "['transformers']", "0.5", "True"]


@pytest.mark.long
def test_after_one_of_them_nothing_is_hidden():
    program = """
import transformers, training
from torchmetrics.text import BERTScore  # made of parts that need scipy
from transformers.image_utils import pil_torch_interpolation_mapping as mapping  # filled where torchvision is at hand
assert mapping
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_what_is_imported_already_is_not_hidden():
    import scipy

    with hidden("scipy", "wave"):
        import scipy.signal

        with pytest.raises(ImportError):
            import wave
    import wave  # noqa: F401

    assert sys.modules["scipy"] is scipy
