"""What only a GPU can show: whatever the kernels, objectives compute there what they do on a CPU. Skipped where none is."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import inside, text_encoder
from made_pairs import TinyPairs
from torch import Tensor

from benchmarks.works import Work
from conf.composition import compose_settings
from models.attention import kernels_used, set_attention
from models.biased_gelu import biased_gelu, fuse_gelu
from models.pair import Pair, PairHead
from models.short_attention import short_attention
from objectives.draw import Draw
from objectives.linear_cross_entropy import linear_cross_entropy
from objectives.objective import Batch, Objective
from training.ahead import Ahead
from training.arrangement import Arrangement
from training.pretraining import seed_generators
from transfer.features import embed_pictures, embed_texts, extract
from transfer.protocol import Bench
from transfer.retrieval import Retrieval
from transfer.zero_shot import ZeroShot

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

PICTURES = ("byol", "denoising_autoencoder", "inpainting_autoencoder", "mae", "moco_v2", "moco_v3", "simclr", "vicreg")
TEXTS = ("bidirectional_lm", "causal_lm", "mlm", "permutation_lm", "prefix_lm", "rtd", "span")
PAIRS = ("captioning", "clip", "siglip")


def work_of(objective: str) -> Work:
    """With the model that the objective has by default, at a size that takes a second."""
    model = compose_settings("train", (f"objective={objective}",), complete=False)[1]["model"]
    pictures = {} if objective in TEXTS else {"image_size": 32}
    texts = {} if objective in PICTURES else {"length": 32, "vocabulary": 160}
    return Work(objective, model, batch=8, **pictures, **texts)


def on(device: str, batch: Batch) -> Batch:
    return {name: value.to(device) for name, value in batch.items()}


def learned(objective: Objective, batch: Batch, precision: str = "fp32") -> tuple[float, Tensor]:
    """(loss, all gradients in one vector on the host)."""
    device = batch["index"].device.type
    objective.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        loss = objective(batch, Draw(3, batch["epoch"], batch["index"])).loss
    loss.backward()
    return loss.item(), torch.cat([w.grad.flatten().cpu() for w in objective.parameters() if w.grad is not None])


@pytest.mark.parametrize("name", [*PICTURES, *TEXTS, *PAIRS])
def test_an_objective_learns_the_same_as_on_a_cpu(name):
    work = work_of(name)
    objective = work.build()
    batch = work.batches(objective).batch(0)
    loss, gradient = learned(objective, batch)
    gpu_loss, gpu_gradient = learned(objective.cuda(), on("cuda", batch))
    assert gpu_loss == pytest.approx(loss, rel=1e-3)
    assert (gpu_gradient - gradient).norm() < 1e-2 * gradient.norm()


@pytest.mark.parametrize("half_stream", [False, True])
@pytest.mark.parametrize("name", ["mlm", "causal_lm", "rtd", "prefix_lm", "mae", "simclr", "clip"])
def test_compiled_blocks_learn_the_same(name, half_stream):
    work = work_of(name)
    objective = work.build().cuda()
    batch = on("cuda", work.batches(objective).batch(0))
    set_attention(objective, "sdpa")
    loss, gradient = learned(objective, batch, "bf16")
    rounding = (gradient - learned(objective, batch)[1]).norm()  # batch norms over eight small pictures make it a tenth
    set_attention(objective, "short")
    fuse_gelu(objective)
    Arrangement(compile=True, half_stream=half_stream, precision="bf16", device="cuda").apply(objective, None)
    compiled_loss, compiled_gradient = learned(objective, batch, "bf16")
    assert compiled_loss == pytest.approx(loss, rel=1e-2)
    assert (compiled_gradient - gradient).norm() < max(5e-2 * gradient.norm(), 1.5 * rounding)


@pytest.mark.parametrize("shape", [(3, 50, 4, 64), (2, 197, 2, 32), (2, 197, 2, 64), (2, 65, 3, 16), (1, 1, 1, 64)])
def test_the_kernel_of_short_attention_against_float64(shape):
    batch, length, num_heads, width = shape
    qkv = torch.randn(batch, length, 3 * num_heads * width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    grad = torch.randn(batch, length, num_heads * width, device="cuda", dtype=torch.bfloat16)
    exact = qkv.detach().double().requires_grad_()
    bias = torch.zeros(qkv.shape[2], device="cuda", requires_grad=True)
    mixed = short_attention(qkv, bias, num_heads)
    expected = F.scaled_dot_product_attention(*exact.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4))
    expected = expected.transpose(1, 2).flatten(2)
    mixed.backward(grad)
    expected.backward(grad.double())
    for got, wanted in ((mixed, expected), (qkv.grad, exact.grad), (bias.grad, exact.grad.sum((0, 1)))):
        assert (got - wanted).norm() < 1e-2 * wanted.norm()


@pytest.mark.parametrize("kind", ["normal", "tanh", "quick"])
@pytest.mark.parametrize("shape", [(2, 50, 3072), (3, 7, 100), (1, 4096, 768)])
def test_the_kernel_of_gelu_against_float64(kind, shape):
    pre, grad = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) * 3 for _ in range(2))
    bias = torch.randn(shape[-1], device="cuda")
    given, exact = (
        [pre.detach().to(dtype).requires_grad_(), bias.detach().clone().requires_grad_()] for dtype in (None, torch.double)
    )
    act = biased_gelu(*given, kind)
    x = exact[0] + exact[1].double()
    expected = x * torch.sigmoid(1.702 * x) if kind == "quick" else F.gelu(x, approximate="none" if kind == "normal" else kind)
    act.backward(grad)
    expected.backward(grad.double())
    for got, wanted, tolerance in (
        (act, expected, 1e-2),
        (given[0].grad, exact[0].grad, 1e-2),
        (given[1].grad, exact[1].grad, 1e-5),
    ):
        assert (got - wanted).norm() < tolerance * wanted.norm()


def test_batches_copied_ahead_are_the_loaders_own():
    loader = [{"index": torch.full((1000, 1000), step), "corrupt": torch.tensor(step)} for step in range(6)]
    seen = []
    for batch in Ahead(loader, torch.device("cuda")):
        torch.cuda._sleep(10**7)  # the step, in which the next batch arrives
        seen.append((batch["index"].float().mean(), batch["corrupt"]))
    assert [(int(index), int(corrupt)) for index, corrupt in seen] == [(step, step) for step in range(6)]


def test_a_gpus_generator_is_seeded():
    drawn = []
    for seed in (5, 6, 5):
        seed_generators(seed, torch.device("cuda", torch.cuda.current_device()))
        drawn.append(torch.rand(4, device="cuda").tolist())
    assert drawn[0] == drawn[2] != drawn[1]


@pytest.mark.parametrize("name", ["mlm", "causal_lm"])
@pytest.mark.parametrize("kernel", ["sdpa", "flex"])
def test_documents_are_kept_apart_by_every_kernel(name, kernel):
    work = Work(name, {"mlm": "bert_mini", "causal_lm": "gpt_mini"}[name], batch=4, length=256, vocabulary=160)
    objective = work.build().cuda()
    batch = on("cuda", work.batches(objective).batch(0))
    batch["document"] = (torch.arange(256, device="cuda") // 60).expand(4, -1).contiguous()
    set_attention(objective, "eager")
    loss, gradient = learned(objective, batch)
    set_attention(objective, kernel)
    assert kernel in kernels_used(objective)
    other_loss, other_gradient = learned(objective, batch)
    assert other_loss == pytest.approx(loss, rel=1e-4)
    assert (other_gradient - gradient).norm() < 1e-2 * gradient.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("num_classes", [17, 50257])
def test_the_kernel_of_the_logits_against_float64(dtype, with_bias, num_classes):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(77, 64, generator=generator).to(dtype)
    weight = torch.randn(num_classes, 64, generator=generator).to(dtype) / 4
    bias = torch.randn(num_classes, generator=generator) if with_bias else None
    target = torch.randint(num_classes, (77,), generator=generator)
    target[::4] = -100

    def leaves(kind: torch.dtype | None) -> list[Tensor]:
        given = (hidden, weight) if bias is None else (hidden, weight, bias)
        return [tensor.to("cuda", kind).requires_grad_() for tensor in given]

    mine, exact = leaves(None), leaves(torch.float64)
    nats, _ = linear_cross_entropy(*mine, *([] if with_bias else [None]), target.cuda())
    expected = F.cross_entropy(F.linear(*exact), target.cuda(), ignore_index=-100, reduction="sum")
    nats.backward()
    expected.backward()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    assert nats.item() == pytest.approx(expected.item(), rel=tolerance)
    for got, wanted in zip(mine, exact, strict=True):
        assert (got.grad - wanted.grad).norm() < max(tolerance, 1e-4) * wanted.grad.norm()


def judged(transfer: str, accelerator: str, pictures: Path, cwd: Path) -> dict:
    """The result of finetune.py on an untrained encoder."""
    model = ["checkpoint=none", "model=vit_t", "model.depth=2"]
    data = ["datamodule=image_folder", f"datamodule.root={pictures}", "datamodule.batch_size=8"]
    speed = [f"trainer.accelerator={accelerator}", "trainer.precision=fp32"]
    model += ["transfer.epochs=1", "transfer.min_steps=20"] if transfer == "finetune" else []
    done = inside("finetune.py", f"transfer={transfer}", *model, *data, *speed, f"hydra.run.dir={accelerator}", cwd=cwd)
    assert done.returncode == 0, done.stdout
    return json.loads((cwd / accelerator / "result.json").read_text())


@pytest.mark.parametrize("transfer", ["knn", "linear", "finetune"])
def test_an_encoder_is_worth_what_it_is_on_a_cpu_and_is_judged_on_the_gpu(transfer, pictures, tmp_path):
    host = judged(transfer, "cpu", pictures, tmp_path)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    found = judged(transfer, "gpu", pictures, tmp_path)
    assert torch.cuda.max_memory_allocated() > before
    assert found["settings"]["device"] == "cuda"
    assert found["metrics"]["accuracy"] == pytest.approx(
        host["metrics"]["accuracy"], abs=0.15 if transfer == "finetune" else 0.05
    )


def test_frozen_features_are_those_of_a_cpu(data, vit):
    host, labels = extract(vit, data, "test")
    found, same = extract(vit.cuda(), data, "test")
    torch.testing.assert_close(found, host, rtol=1e-3, atol=1e-3)
    assert torch.equal(labels, same)


def test_a_pair_is_worth_what_it_is_on_a_cpu(pictures, vit, tmp_path):
    data = TinyPairs(pictures)
    text = text_encoder("bert", data.spec)
    pair, bench = Pair(vit, text, PairHead.between(vit, text)), Bench(tmp_path, 0, {"workers": 0}, "fp32")

    def looked_at() -> tuple[Tensor, Tensor, dict, dict]:
        vectors = embed_pictures(pair, data, "test")[0], embed_texts(pair, ["red", "a very blue picture"])
        return (*vectors, ZeroShot(("a {} picture",))(pair, data.task, bench), Retrieval()(pair, data, bench))

    host = looked_at()
    pair.cuda()
    found = looked_at()
    for mine, other in zip(found[:2], host[:2], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)
    for mine, other, metric in zip(found[2:], host[2:], ("accuracy", "recall_at_1"), strict=True):
        assert mine[metric] == pytest.approx(other[metric], abs=0.1)
