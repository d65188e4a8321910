"""Chains of operations on pixels compute, compiled, what is written; and they are compiled when one says so, for so long."""

from functools import partial

import pytest
import torch
from torch import Tensor

from models import fused
from models.fused import as_written, chains_compiled, compile_chains
from models.timm_encoder import normalised
from objectives import photometry
from objectives.draw import Draw
from objectives.mae import pixels_at, squared_error


@pytest.fixture
def bytes_BCHW() -> Tensor:
    return torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def compiled(monkeypatch):
    """Chains are compiled, into one graph each, whose operations PyTorch runs one by one; gives their functions."""
    graphs, compiler = [], partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(
        torch, "compile", lambda function, **settings: graphs.append(function) or compiler(function, **settings)
    )
    fused._compiled.cache_clear()
    before = chains_compiled()
    compile_chains(True)
    yield graphs
    compile_chains(before)
    fused._compiled.cache_clear()


def chains(bytes_BCHW: Tensor) -> list[tuple]:
    """Functions and what they are given."""
    images, chosen = bytes_BCHW.float() / 255, torch.arange(len(bytes_BCHW)) % 2 == 0
    mean, std = torch.rand(2, 3, 1, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    hidden = torch.rand(len(images), 16, generator=torch.Generator().manual_seed(2)).argsort(dim=1)[:, :12]
    return [
        (normalised, bytes_BCHW, mean, std),
        (normalised, images, mean, std),
        (pixels_at, images, hidden, 4, True),
        (pixels_at, images, hidden, 4, False),
        (photometry.floats, bytes_BCHW),
        (photometry.some_grey, images, chosen),
        (photometry.some_solarised, images, chosen),
    ]


def test_compiled_chains_compute_what_is_written(bytes_BCHW, compiled):
    for function, *given in chains(bytes_BCHW):
        with as_written():
            expected = function(*given)
        torch.testing.assert_close(function(*given), expected, rtol=1e-5, atol=1e-5)
    assert len(compiled) == len({function for function, *_ in chains(bytes_BCHW)})


def test_the_compiled_error_has_the_written_gradient(compiled):
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 4, 5, 6, generator=generator)
    made = []
    for on in (False, True):
        compile_chains(on)
        given = predicted.to(torch.bfloat16).requires_grad_()
        loss = squared_error(given, target)
        loss.backward()
        made.append((loss.detach(), given.grad))
    torch.testing.assert_close(made[1], made[0])
    exact = (predicted.to(torch.bfloat16).double() - target.double()).square().mean()
    assert made[1][0].item() == pytest.approx(exact.item(), rel=1e-5)
    assert len(compiled) == 1


def test_colours_made_of_all_samples_are_those_made_row_by_row(bytes_BCHW, compiled):
    augment = photometry.Photometry(grey=0.5, blur=0.0, solarise=0.5)
    images = bytes_BCHW.float() / 255
    draw = Draw(0, torch.zeros(len(images), dtype=torch.long), torch.arange(len(images)))
    with as_written():
        expected = augment(images, draw, 0)
    torch.testing.assert_close(augment(images, draw, 0), expected, rtol=1e-4, atol=1e-4)
    assert photometry.jitter_all.__wrapped__ in compiled


def test_nothing_is_compiled_unless_asked_and_only_for_so_long():
    assert not chains_compiled()
    compile_chains(True)
    with as_written():
        assert not chains_compiled()
    assert chains_compiled()
    compile_chains(False)
