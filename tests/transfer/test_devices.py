"""Where a model is judged: on the device that `trainer` means, with data that come from the host."""

import pytest
import torch
from conftest import inside, text_batch, text_encoder, text_spec
from made_vision import encoder_of
from test_protocols import TRAINER
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from datamodules.spec import DataSpec
from errors import BadInput
from models.bilstm import BiLSTM
from models.encoder import Encoder
from models.pixels import Pixels
from models.word_vectors import WordVectors
from training import trainer
from transfer import finetune
from transfer.finetune import FineTune
from transfer.knn import KNN
from transfer.protocol import Bench

PICTURES = DataSpec("pictures", "image", 10, 32, 3, ("a", "b"))
ENCODERS = {
    **{kind: lambda kind=kind: encoder_of(kind, PICTURES) for kind in ("vit", "resnet")},
    "pixels": lambda: Pixels(PICTURES),
    **{name: lambda name=name: text_encoder(name) for name in ("bert", "modernbert", "gpt2", "llama", "t5")},
    "bilstm": lambda: BiLSTM(text_spec(), width=32),
    "word_vectors": lambda: WordVectors(text_spec(), width=32),
}


def elsewhere(*arguments: object) -> dict[str, str | int]:
    """What `prepare_speed` says where the device is not the host; the one such device that every machine has."""
    return {"device": "meta", "precision": "fp32", "attention": "sdpa", "workers": 0}


@pytest.mark.parametrize("model", ["vit_t", "resnet18", "pixels"])
def test_a_model_is_judged_where_the_trainer_says(tmp_path, pictures, monkeypatch, model):
    found = []

    def judged(protocol: KNN, encoder: Encoder, *_: object) -> None:
        found.extend(tensor.device.type for tensor in (*encoder.parameters(), *encoder.buffers()))
        raise BadInput("seen enough")

    monkeypatch.setattr(trainer, "prepare_speed", elsewhere)
    monkeypatch.setattr(KNN, "__call__", judged)
    data = ["datamodule=image_folder", f"datamodule.root={pictures}"]
    assert "seen enough" in inside("finetune.py", "checkpoint=none", f"model={model}", *data, cwd=tmp_path).stdout
    assert set(found) == {"meta"}


def test_what_was_fine_tuned_is_judged_there_too(data, tmp_path, vit, monkeypatch):
    found = []

    def judged(objective: nn.Module, *_: object) -> None:
        found.extend(weight.device.type for weight in objective.parameters())
        raise BadInput("seen enough")

    monkeypatch.setattr(finetune, "prepare_speed", elsewhere)
    monkeypatch.setattr(finetune, "fit", lambda _, module, loader: module.to_empty(device="cpu"))  # as Lightning does
    monkeypatch.setattr(finetune, "predict", judged)
    with pytest.raises(BadInput, match="seen enough"):
        FineTune(torch.optim.AdamW)(vit, data, Bench(tmp_path, 0, TRAINER, "fp32"))
    assert set(found) == {"meta"}


@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_read_of_an_encoder_touches_its_own_device_alone(name):
    """Fake tensors compute devices and shapes, and refuse to mix devices, without a GPU."""
    encoder = ENCODERS[name]().eval()
    pictures = {"views": torch.zeros(4, 1, 3, 32, 32, dtype=torch.uint8)}
    batch = pictures if encoder.modality == "image" else text_batch(4) | {"present": torch.ones(4, 16, dtype=torch.bool)}
    with FakeTensorMode(), torch.inference_mode():

        def there(tensor: torch.Tensor) -> torch.Tensor:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")

        for part in encoder.modules():
            for tensors in (part._parameters, part._buffers):
                tensors |= {name: there(tensor) for name, tensor in tensors.items() if tensor is not None}
        inputs = encoder.inputs({name: there(value) for name, value in batch.items()})
        read = {"embedded": encoder.embed(inputs)} | encoder.readouts(inputs, encoder.readout_names)
        assert {value.device.type for value in read.values()} == {"cuda"}


def test_a_device_that_is_not_here_is_refused_before_anything_is_read(here, pictures, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["checkpoint=none", "datamodule=image_folder", f"datamodule.root={pictures}", "trainer.accelerator=gpu"]
    assert "error: accelerator 'gpu' is not on this machine" in here("finetune.py", *words).stdout
