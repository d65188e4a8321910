"""The losses of CLIP and SigLIP against open_clip's, and against the formulas written out in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss

from objectives.clip import info_nce
from objectives.siglip import SigmoidLoss, sigmoid_loss


def embeddings(num: int = 12, width: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, num, width, generator=generator)
    return F.normalize(image, dim=1).requires_grad_(), F.normalize(text + 0.5 * image, dim=1).detach().requires_grad_()


def numbers(scale: float, bias: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([scale], requires_grad=True), torch.tensor([bias], requires_grad=True)


def naive_info_nce(image: torch.Tensor, text: torch.Tensor, scale: float) -> float:
    """One anchor at a time."""
    image, text = image.detach().double(), text.detach().double()
    total = 0.0
    for anchors, candidates in ((image, text), (text, image)):
        for i in range(len(image)):
            logits = [math.exp(scale) * float(anchors[i] @ candidate) for candidate in candidates]
            highest = max(logits)
            total += -logits[i] + highest + math.log(sum(math.exp(logit - highest) for logit in logits))
    return total / (2 * len(image))


def naive_sigmoid(image: torch.Tensor, text: torch.Tensor, scale: float, bias: float) -> float:
    """One picture and caption at a time."""
    image, text = image.detach().double(), text.detach().double()
    total = 0.0
    for i in range(len(image)):
        for j in range(len(text)):
            logit = math.exp(scale) * float(image[i] @ text[j]) + bias
            total += math.log1p(math.exp(-logit if i == j else logit))
    return total / len(image)


@pytest.mark.parametrize("temperature", [1.0, 0.07, 0.01])
def test_clip_equals_open_clips_loss_and_gradients(temperature):
    image, text = embeddings()
    scale = torch.tensor([-math.log(temperature)], requires_grad=True)
    ours = info_nce(image, text, scale)[0]
    theirs = ClipLoss()(image, text, scale.exp())
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert ours.item() == pytest.approx(naive_info_nce(image, text, scale.item()), rel=1e-5)
    for mine, other in zip(
        torch.autograd.grad(ours, (image, text, scale)), torch.autograd.grad(theirs, (image, text, scale)), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("scale", "bias"), [(math.log(10), -10.0), (math.log(10), -2.4), (0.0, 0.0)])
def test_siglip_equals_open_clips_loss_and_gradients(scale, bias):
    image, text = embeddings()
    scale, bias = numbers(scale, bias)
    ours = sigmoid_loss(image, text, scale, bias)[0]
    theirs = SigLipLoss()(image, text, scale.exp(), bias)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert ours.item() == pytest.approx(naive_sigmoid(image, text, scale.item(), bias.item()), rel=1e-5)
    inputs = (image, text, scale, bias)
    for mine, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


def test_both_are_computed_in_float32_under_autocast():
    image, text = (vectors.detach().bfloat16() for vectors in embeddings())
    scale, bias = numbers(math.log(100), -3.0)
    with torch.autocast("cpu", torch.bfloat16):
        clip, siglip = info_nce(image, text, scale)[0], sigmoid_loss(image, text, scale, bias)[0]
    assert clip.dtype == siglip.dtype == torch.float32
    assert clip.item() == pytest.approx(naive_info_nce(image, text, scale.item()), rel=1e-5)
    assert siglip.item() == pytest.approx(naive_sigmoid(image, text, scale.item(), -3.0), rel=1e-5)


def test_accuracy_counts_pictures_whose_own_caption_is_nearest():
    vectors = torch.eye(6)
    shifted = vectors.roll(1, 0)
    shifted[:2] = vectors[:2]  # two of six are where they belong
    scale, bias = numbers(1.0, 0.0)
    for found in (info_nce(vectors, shifted, scale), sigmoid_loss(vectors, shifted, scale, bias)):
        assert found[1].item() == pytest.approx(2 / 6)


@pytest.mark.parametrize(("batch_size", "expected"), [(64, 5.3), (256, 6.6)])
def test_the_default_bias_is_a_mild_start(batch_size, expected):
    """The values are those that a start at random unit vectors has with that bias."""
    loss = SigmoidLoss(batch_size)
    assert torch.tensor([loss.initial_bias]).sigmoid().item() == pytest.approx(1 / batch_size)
    image, text = (F.normalize(torch.randn(batch_size, 512, generator=torch.Generator().manual_seed(s)), dim=1) for s in (0, 1))
    found = loss(image, text, *numbers(loss.initial_scale, loss.initial_bias))[0]
    assert found.item() == pytest.approx(expected, abs=0.15)
    paper = loss(image, text, *numbers(loss.initial_scale, -10.0))[0]
    assert paper.item() == pytest.approx(10.0, abs=0.3)
