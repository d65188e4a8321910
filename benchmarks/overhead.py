"""What the framework adds to a step: the Trainer with all its callbacks against a bare loop over the same objective.

Both sides run the same steps on the same batches, already in memory, in one process, alternating A B B A. Monitors and
checkpoints run in both cases only at their own intervals, which these steps do not reach.

    python benchmarks/overhead.py            # about two minutes on two cores
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules.spec import DataSpec
from models.timm_encoder import TimmEncoder
from objectives.draw import Draw
from objectives.mae import MaskedAutoencoder
from objectives.objective import Objective
from training.checkpoints import Checkpoints
from training.course import Steps
from training.monitors import Monitors
from training.optimization import Optimization
from training.pretraining import Pretraining
from training.progress import ProgressLine
from training.trainer import build_trainer, prepare_speed

BATCH, STEPS, ROUNDS = 64, 20, 6
SETTINGS = {
    "accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "auto", "attention": "auto",
}  # fmt: skip


def objective() -> Objective:
    torch.manual_seed(0)
    spec = DataSpec("noise", "image", BATCH * STEPS, 32, 3)
    encoder = TimmEncoder(spec, "vit_tiny_patch16_224", depth=6, positions="sincos")
    made = MaskedAutoencoder(encoder, spec, decoder_width=128, decoder_depth=2)
    prepare_speed(made, SETTINGS)
    return made


def batches() -> list[dict[str, torch.Tensor]]:
    index = torch.arange(BATCH)
    views = torch.randint(0, 256, (BATCH, 1, 3, 32, 32), dtype=torch.uint8)
    return [
        {"views": views, "index": index + step * BATCH, "epoch": torch.zeros_like(index), "corrupt": torch.tensor(0)}
        for step in range(STEPS)
    ]


def bare(data: list[dict[str, torch.Tensor]], recipe: Optimization) -> float:
    """Seconds a step of a plain PyTorch loop."""
    model = objective()
    optimizer = recipe.optimizer(model, BATCH)
    began = 0.0
    for step, batch in enumerate(data):
        if step == 2:  # the first steps warm up
            began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        model(batch, Draw(0, batch["epoch"], batch["index"])).loss.backward()
        optimizer.step()
    return (time.perf_counter() - began) / (STEPS - 2)


def ours(data: list[dict[str, torch.Tensor]], recipe: Optimization) -> float:
    """Seconds a step of the same under train.py's Trainer and callbacks."""
    times: list[float] = []

    class Clock(ProgressLine):
        def on_train_batch_end(self, *arguments: object) -> None:
            super().on_train_batch_end(*arguments)
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        module = Pretraining(objective(), recipe, Steps(STEPS + 1), BATCH, seed=0)  # one more, so that nothing ends inside
        callbacks = [Clock(), Monitors(None, None, 0, 0), Checkpoints(Path(folder), 10_000)]
        trainer = build_trainer(SETTINGS, Path(folder), Steps(STEPS), None, callbacks)
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    return (times[-1] - times[2]) / (len(times) - 3)


def main() -> None:
    recipe, data = Optimization(torch.optim.AdamW, 1e-3), batches()
    ratios = []
    for round_ in range(ROUNDS):
        if round_ % 2:  # who comes first changes, in case the machine favours one of the places
            plain, framework = bare(data, recipe), ours(data, recipe)
        else:
            framework, plain = ours(data, recipe), bare(data, recipe)
        ratios.append(framework / plain)
        print(
            f"round {round_}: bare {1e3 * plain:.1f} ms, train.py {1e3 * framework:.1f} ms, ratio {ratios[-1]:.3f}", flush=True
        )
    low, high = min(ratios), max(ratios)
    print(f"MAE, ViT-T depth 6, batch {BATCH}, 32 px: median ratio {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
