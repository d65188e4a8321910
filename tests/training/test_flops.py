"""FLOPs of a training step as hand formulas say, of every network that takes part in it.

A multiply-add is 2 FLOPs. A backward pass costs twice the forward pass: a matrix product for the gradient of each factor.
Only the first product of a picture's path has no second one, because nothing asks for the gradient of pixels. Token
embeddings are looked up, which costs nothing; everything that is no matrix product is left out, here as in the count.
"""

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import image_batch, text_batch, text_encoder, text_spec
from made_pairs import pair_batch, pair_spec
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from datamodules.image_text import Captioned, ImageTextData
from datamodules.rows import Texts
from datamodules.samples import Pictures
from datamodules.text_task import TextTask
from models.timm_encoder import TimmEncoder
from objectives.clip import InfoNCE
from objectives.draw import Draw
from objectives.image_text import ImageText
from objectives.mae import MaskedAutoencoder
from objectives.mlm import MaskedLanguageModel
from objectives.prefix_lm import PrefixLanguageModel
from objectives.rtd import ReplacedTokenDetection
from objectives.simclr import SimCLR
from objectives.supervised import Supervised
from objectives.supervised_text import SupervisedText
from training.flops import Counter, EvenDraw, forward_flops, sample_flops, typical_batch


def vit_forward(width: int, depth: int, tokens: int, patches: int, pixels: int) -> float:
    """2 FLOPs a multiply-add: patch embedding, and in each block QKV, scores, mixing, projection, MLP of ratio 4."""
    block = tokens * (3 * width**2 + width**2 + 8 * width**2) + 2 * tokens**2 * width
    return 2 * (patches * pixels * width + depth * block)


def test_supervised_flops_equal_the_hand_formula(vit, spec):
    forward = vit_forward(192, 2, 65, 64, 48) + 2 * 192 * 3
    no_input_gradient = 2 * 64 * 48 * 192  # nothing asks for the gradient of the pixels
    counted = sample_flops(Supervised(vit, spec), image_batch(8, 1), 64)
    assert counted == pytest.approx(3 * forward - no_input_gradient, rel=0.02)
    assert forward_flops(vit, image_batch(1, 1)) == pytest.approx(vit_forward(192, 2, 65, 64, 48), rel=0.02)


def test_mae_flops_equal_the_hand_formula(vit, spec):
    mae = MaskedAutoencoder(vit, spec, decoder_width=64, decoder_depth=2, decoder_heads=2)
    encoder = vit_forward(192, 2, 17, 64, 48)
    decoder = vit_forward(64, 2, 65, 0, 0) + 2 * 17 * 192 * 64 + 2 * 48 * 64 * 48
    # the last block: no query, output and feed-forward at visible places, nor what those would mix
    spared = 2 * 17 * (2 + 8) * 64**2 + 2 * 17 * 2 * 65 * 64
    counted = sample_flops(mae, image_batch(8, 1), 64)
    assert counted == pytest.approx(3 * (encoder + decoder - spared) - 2 * 64 * 48 * 192, rel=0.02)


def test_simclr_counts_both_views_and_all_pairs(vit, spec):
    simclr = SimCLR(vit, spec, projector_width=256)
    forward = 2 * (vit_forward(192, 2, 65, 64, 48) + 2 * (192 * 256 + 256 * 128))

    def by_hand(batch_size: int) -> float:
        pairs = 2 * (2 * batch_size) ** 2 * 128 / batch_size
        return 3 * forward - 2 * 2 * 64 * 48 * 192 + 3 * pairs

    for batch_size in (8, 4096):
        assert sample_flops(simclr, image_batch(8, 2), batch_size) == pytest.approx(by_hand(batch_size), rel=0.02)


def test_as_many_as_pytorch_counts(spec):
    simclr, batch = SimCLR(TimmEncoder(spec, "resnet18"), spec), image_batch(4, 2)
    with Counter() as counter:
        simclr(batch, Draw(0, batch["epoch"], batch["index"])).loss.backward()
    with FlopCounterMode(display=False) as theirs:
        simclr(batch, Draw(0, batch["epoch"], batch["index"])).loss.backward()
    assert counter.total == theirs.get_total_flops()


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(8, 12, 3),
        nn.Conv2d(8, 12, 3, stride=2, dilation=2),
        nn.Conv2d(8, 12, 3, groups=4),
        nn.Conv2d(8, 8, 3, stride=2, groups=8),
        nn.ConvTranspose2d(8, 12, 3, stride=2),
        nn.ConvTranspose2d(8, 12, 3, groups=4),
    ],
    ids=str,
)
def test_convolutions_cost_the_products_that_they_are_made_of(convolution):
    """Of ones alone, each output and each gradient is the number of products that it sums up."""
    nn.init.ones_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    for asked in (True, False):
        x = torch.ones(2, 8, 9, 9, requires_grad=asked)
        convolution.zero_grad()
        with Counter() as forward:
            y = convolution(x)
        with Counter() as backward:
            y.sum().backward()
        assert forward.total == 2 * y.sum()
        assert backward.total == 2 * (convolution.weight.grad.sum() + (x.grad.sum() if asked else 0))


def test_counting_leaves_the_objective_as_it_was(spec):
    encoder = TimmEncoder(spec, "resnet18")
    simclr = SimCLR(encoder, spec)
    before = {name: tensor.clone() for name, tensor in simclr.state_dict().items()}
    sample_flops(simclr, image_batch(8, 2), 8)
    assert all(torch.equal(before[name], tensor) for name, tensor in simclr.state_dict().items())
    assert all(weight.grad is None for weight in simclr.parameters())


def transformer_forward(width: int, depth: int, length: int, feedforward: int) -> float:
    """Q, K, V and output are 4 L D²; scores and mixing are L² D each; the MLP has two matrices of D x F."""
    return 2 * depth * (4 * length * width**2 + 2 * length**2 * width + 2 * length * width * feedforward)


def masked_forward(width: int, depth: int, length: int, feedforward: int, targets: int) -> float:
    """As above, but of the last layer only keys and values are needed everywhere; the rest is computed at the targets."""
    at_targets = 2 * targets * width**2 + 2 * targets * length * width + 2 * targets * width * feedforward
    return transformer_forward(width, depth - 1, length, feedforward) + 2 * (2 * length * width**2 + at_targets)


def head_forward(targets: int, inside: int, width: int, vocabulary: int) -> float:
    """At the targets alone: a dense layer onto the embedding's width, then the embedding of every token."""
    return 2 * targets * (inside * width + width * vocabulary)


@pytest.mark.parametrize("length", [16, 64])
def test_mlm_flops_equal_the_hand_formula(length):
    spec = text_spec(length, num_sentinels=4000)  # so that the output layer weighs
    mlm = MaskedLanguageModel(text_encoder("bert", spec), spec)
    targets = round(0.15 * length)
    forward = masked_forward(32, 2, length, 64, targets) + head_forward(targets, 32, 32, spec.vocabulary.size)
    assert sample_flops(mlm, text_batch(8, length), 64) == pytest.approx(3 * forward, rel=0.02)


@pytest.mark.parametrize("length", [16, 64])
def test_rtd_flops_equal_the_hand_formula(length):
    spec = text_spec(length, num_sentinels=4000)
    rtd = ReplacedTokenDetection(text_encoder("bert", spec, width=64, feedforward=128), spec, generator_width=0.25)
    # the generator is 16 wide, with an MLP of 4 x 16, on the encoder's embedding of 64; the detector looks at every token
    targets = round(0.15 * length)
    generator = 2 * length * 64 * 16 + masked_forward(16, 2, length, 64, targets)
    head = head_forward(targets, 16, 64, spec.vocabulary.size)
    detector = 2 * length * (64**2 + 64)
    forward = generator + head + transformer_forward(64, 2, length, 128) + detector
    assert sample_flops(rtd, text_batch(8, length), 64) == pytest.approx(3 * forward, rel=0.02)


@pytest.mark.parametrize("length", [16, 64])
def test_what_samples_cost_differently_is_counted_at_its_mean_whatever_the_samples(length):
    spec = text_spec(length, num_sentinels=4000)
    prefix_lm = PrefixLanguageModel(text_encoder("gpt2", spec), spec)
    # prefixes of 1 to length - 1 tokens; what follows them is predicted
    head = 2 * length / 2 * 32 * spec.vocabulary.size
    expected = 3 * (transformer_forward(32, 2, length, 64) + head)
    for first in (0, 1000):
        batch = text_batch(8, length) | {"index": torch.arange(first, first + 8)}
        for batch_size in (8, 4096):
            assert sample_flops(prefix_lm, batch, batch_size) == pytest.approx(expected, rel=0.005)


def test_choices_of_a_count_are_spread_evenly():
    place = torch.arange(8)
    draw = EvenDraw(torch.zeros(8, dtype=torch.long), place, place)
    for high in (4, 100, 1 << 30):
        chosen = draw.integers("split", high, 1)[:, 0]
        assert ((chosen >= 0) & (chosen < high)).all()
        assert chosen.double().mean().item() == pytest.approx((high - 1) / 2, rel=1e-6)
        assert sorted((chosen * 4 // high).tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal(draw.permutation("order", 50).sort(dim=1).values, torch.arange(50).expand(8, -1))
    assert len(draw.permutation("order", 50).unique(dim=0)) == 8


@pytest.mark.parametrize("batch_size", [8, 4096])
def test_clip_flops_equal_the_hand_formula(batch_size):
    spec = pair_spec()
    image, text = TimmEncoder(spec, "vit_tiny_patch16_224", depth=2, positions="sincos"), text_encoder("bert", spec)
    clip = ImageText(image, spec, InfoNCE(), lambda spec, **settings: text)
    patches = (32 // image.net.patch_embed.patch_size[0]) ** 2
    pixels = 3 * image.net.patch_embed.patch_size[0] ** 2
    towers = vit_forward(192, 2, patches + 1, patches, pixels) + transformer_forward(32, 2, 12, 64)
    projections = 2 * 32 * (192 + 32)  # of both onto the width of the narrower tower
    similarities = 2 * batch_size * 32  # of one picture with all texts
    forward = towers + projections + similarities
    no_input_gradient = 2 * patches * pixels * 192
    assert sample_flops(clip, pair_batch(8), batch_size) == pytest.approx(3 * forward - no_input_gradient, rel=0.02)


def test_texts_of_all_lengths_are_counted_at_their_mean_whatever_the_seed():
    """Against every batch of an epoch, counted one by one."""
    rng = np.random.default_rng(0)
    texts = [(" ".join(f"w{i}" for i in rng.integers(0, 60, rng.integers(2, 100))),) for _ in range(320)]
    splits = {name: Texts(texts, np.arange(320) % 2) for name in ("train", "val", "test")}
    data = TextTask("lengths", splits, ["a", "b"], text_spec().vocabulary, max_length=128, batch_size=8)
    objective = SupervisedText(text_encoder("bert", data.spec, width=128, feedforward=512, depth=1), data.spec)
    counts = [sample_flops(objective, batch, 8) for batch in data.train_loader(None, 0, 40)]
    assert max(counts) > 4 * min(counts)
    for seed in range(5):
        assert sample_flops(objective, typical_batch(data, None, seed), 8) == pytest.approx(np.mean(counts), rel=0.08)


def test_captions_are_as_wide_as_in_a_whole_batch_not_as_among_a_few():
    words = [("a " * (20 if i % 16 == 0 else 2),) for i in range(128)]
    pictures = Pictures(lambda _: PIL.Image.new("RGB", (8, 8)), 128)
    splits = {name: Captioned.listed(pictures, words) for name in ("train", "val", "test")}
    data = ImageTextData("made up", splits, [], text_spec().vocabulary, image_size=8, batch_size=64)
    assert {tuple(typical_batch(data, None, seed)["ids"].shape) for seed in range(10)} == {(8, 24)}
