"""What a run says before its first step, and the record of what it came to."""

import shlex
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from conf.pasted import command_line, from_start
from datamodules.spec import DataSpec
from errors import RunStopped
from models.export import save_encoder
from reports.result import Result
from training.budget import Budget
from training.energy import Energy
from training.memory import peak_memory_bytes
from training.monitors import Monitors
from training.optimization import REFERENCE_BATCH
from training.pretraining import Pretraining
from training.progress import samples_per_second
from training.ranks import sum_over_ranks
from training.run import Run, score

VERSIONS = ("torch", "torchvision", "lightning", "hydra-core", "timm", "transformers")


def announce(
    run: Run,
    module: Pretraining,
    spec: DataSpec,
    budget: Budget,
    flops: float,
    resolved: dict[str, Any],
    begins: str | None = None,
) -> None:
    """Print what was resolved, before the first step."""
    names, recipe, batch = run.config["names"], module.optimization, module.batch_size
    encoder = module.objective.encoder
    patches = f", {encoder.num_patches} patches of {encoder.patch_size} px" if encoder.num_patches else ""
    shape = {
        "image": f"samples, {spec.image_size} px, {spec.num_classes} classes",
        "text": f"blocks of {spec.block_length} tokens",
        "image_text": f"pairs, {spec.image_size} px, captions of up to {spec.block_length} tokens",
    }[spec.modality]
    shape += f", vocabulary {spec.vocabulary.size:,}" if spec.vocabulary is not None else ""
    lines = {
        "run": str(from_start(run.folder)) + (f" (resumed at step {run.first_step})" if run.first_step else ""),
        "objective": f"{names['objective']}, {flops:.3g} FLOPs a sample",
        "model": f"{names['model']}, {num_parameters(encoder):,} parameters of {num_parameters(module):,} trained{patches}",
        **{
            setting: f"{run.config['objective'][setting]}, {num_parameters(part):,} parameters"
            for name, part in module.objective.exports().items()
            if (setting := name.replace("_encoder", "_model")) in run.config["objective"]
        },
        **({"begins": begins} if begins else {}),
        "data": f"{spec.name}, {spec.num_train:,} training {shape}",
        "budget": budget_line(budget, module, spec, flops),
        "lr": f"{recipe.base_lr:g} x batch {batch} / {REFERENCE_BATCH} = {recipe.peak_lr(batch):g}, "
        f"warm-up {recipe.warmup:g} of the steps, then cosine",
        "speed": ", ".join(f"{name} {value}" for name, value in resolved.items()),
    }
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"{name:>{width}}  {line}", flush=True)


def finish(
    run: Run,
    module: Pretraining,
    spec: DataSpec,
    budget: Budget,
    flops: float,
    resolved: dict[str, Any],
    monitors: Monitors,
    energy: Energy,
) -> float:
    """Export what was learned, write the result, print where things are and what to type next.

    Only the first rank does; the others help it to gather the weights.

    Returns:
        The validation k-NN accuracy, or minus the last loss where there is none.
    """
    if not module.course.finished:
        raise RunStopped(f"training ended at {module.course.position}", 1, everywhere=True)
    corrupt_samples = sum_over_ranks(module.corrupt_samples)
    with module.whole() as objective:
        if objective is None:
            return 0.0
        weights = {name: save_encoder(part, run.folder, name) for name, part in objective.exports().items()}
    names, encoder = run.config["names"], module.objective.encoder
    watch, samples = module.watch, module.course.step * module.batch_size
    metrics = {"first_loss": module.first_loss.item(), "last_loss": module.loss.item(), **monitors.metrics}
    result = Result(
        kind="pretrain",
        objective=names["objective"],
        model=run.start.label,
        data=spec.name,
        seed=run.config["seed"],
        budget_asked={"unit": budget.unit, "amount": budget.amount},
        budget_spent={
            "steps": module.course.step,
            "samples": samples,
            "epochs": samples / spec.num_train,
            "flops": samples * flops,
            "minutes": watch.seconds / 60,
        }
        | ({"tokens": samples * spec.block_length} if spec.modality == "text" else {})
        | energy.spent,
        parameters={"encoder": num_parameters(encoder), "total": num_parameters(module)},
        samples_per_second=samples_per_second(module),
        seconds=watch.seconds + watch.paused,
        peak_memory_bytes=peak_memory_bytes(),
        metrics=metrics,
        settings={
            **resolved,
            "monitor_seconds": watch.paused,
            "corrupt_samples": corrupt_samples,
            "resumed_at_step": run.first_step,
            **run.start.record,
        },
        versions=versions(),
        git_commit=git_commit(),
    )
    path = result.write(run.folder)
    print(f"loss {metrics['first_loss']:.4f} -> {metrics['last_loss']:.4f} in {result.seconds:.0f} s", end="")
    print(f", {corrupt_samples} corrupt pictures replaced" if corrupt_samples else "")
    if monitors.metrics:
        print("  ".join(f"{name} {value:.4g}" for name, value in monitors.metrics.items()))
    transfer = "retrieval" if "pair" in weights else "linear"
    places = {
        "result": from_start(path),
        **{name: from_start(written) for name, written in weights.items()},
        "look": shlex.join(["tensorboard", "--logdir", str(from_start(run.folder / "tensorboard"))]),
        "next": command_line("finetune.py", checkpoint=run.folder, transfer=transfer),
    }
    for name, place in places.items():
        print(f"{name + ':':<{max(map(len, places)) + 1}} {place}")
    run.leave()
    return score(run.folder)


def budget_line(budget: Budget, module: Pretraining, spec: DataSpec, flops: float) -> str:
    """What the run will come to, as far as that is known before its first step."""
    batch = module.batch_size
    if module.course.timed:
        return f"{budget.amount:g} minutes of training time, {batch} samples and {batch * flops:.3g} FLOPs a step"
    samples = module.course.most_steps * batch
    tokens = f"{samples * spec.block_length:,} tokens, " if spec.block_length else ""
    return (
        f"{module.course.most_steps:,} steps x {batch} samples = {samples / spec.num_train:.2f} epochs, "
        f"{tokens}{samples * flops:.3g} FLOPs"
    )


def num_parameters(module: nn.Module) -> int:
    """How many numbers are learned or fixed in a module's parameters."""
    return sum(weight.numel() for weight in module.parameters())


def versions() -> dict[str, str]:
    """What the numbers depend on."""
    return {package: version(package) for package in VERSIONS} | {"headstart": version("headstart")}


def git_commit() -> str | None:
    """The commit of the code that runs, with "+changes" where files differ from it; None outside a repository."""
    home = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=home, capture_output=True, text=True, check=True, timeout=20).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+changes" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None
