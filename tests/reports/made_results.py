"""A folder as train.py and finetune.py leave it, without training: configurations, records and event files."""

from pathlib import Path

import numpy as np
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.utils.tensorboard import SummaryWriter

from conf import CONF
from reports.result import Result

STEPS = 40
SCORES = {"random": 0.40, "supervised": 0.62, "mae": 0.55, "simclr": 0.56}
COSTS = {"supervised": 2.0e12, "mae": 2.8e12, "simclr": 2.8e12}


def config_of(script: str, *words: str, names: dict[str, str] | None = None) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose(script, overrides=list(words)), resolve=True)
    return config | ({"names": names} if names else {})


def make_runs(folder: Path, seeds: int = 3, fractions: tuple[float, ...] = (0.1, 0.3, 1.0)) -> None:
    """Three objectives and the random baseline on the emoji, by k-NN at all labels and by fine-tuning at each fraction."""
    rng = np.random.default_rng(0)
    tests = {name: config_of("finetune", f"transfer={name}", "datamodule=emoji") for name in ("knn", "finetune")}
    for objective, mean in SCORES.items():
        names = {"objective": objective, "model": "vit_t", "datamodule": "emoji"}
        config = None if objective == "random" else config_of("train", *(f"{k}={v}" for k, v in names.items()), names=names)
        for seed in range(seeds):
            run, spent = folder / f"{objective}_{seed}", {}
            if config is not None:
                spent = {"steps": STEPS, "samples": 64 * STEPS, "epochs": 1.9, "flops": COSTS[objective]}
                make_run(run, config | {"seed": seed}, spent)
                spent = spent | {"seconds": 30.0 + seed}
            cells = [("knn", 1.0), *(("finetune", fraction) for fraction in fractions)]
            for protocol, fraction in cells:
                accuracy = mean + 0.05 * np.log10(fraction) + 0.004 * rng.normal() + 0.004 * seed
                made = folder / "transfer" / f"{objective}_{seed}_{protocol}_{fraction:g}"
                checkpoint = "none" if config is None else str(run)
                write(made, tests[protocol] | {"checkpoint": checkpoint, "seed": seed, "label_fraction": fraction})
                Result(
                    "transfer", objective, "vit_t", "emoji", seed, budget_spent=spent, metrics={"accuracy": float(accuracy)},
                    versions={"torch": "2"}, git_commit="abc",
                    transfer={
                        "protocol": protocol, "data": "emoji", "label_fraction": fraction, "metric": "accuracy",
                        "num_labels": round(1300 * fraction), "num_test": 569, "seed": seed, "checkpoint": checkpoint,
                    },
                ).write(made)  # fmt: skip


def make_run(folder: Path, config: dict, spent: dict[str, float]) -> None:
    """One pre-training run with its event file."""
    write(folder, config)
    names = config["names"]
    Result(
        "pretrain", names["objective"], names["model"], names["datamodule"], config["seed"], budget_spent=spent, seconds=30.0,
        samples_per_second=83.0, peak_memory_bytes=2**30, metrics={"last_loss": 0.5}, parameters={"encoder": 10},
        versions={"torch": "2"}, git_commit="abc",
    ).write(folder)  # fmt: skip
    with SummaryWriter(str(folder / "tensorboard")) as log:
        for step in range(10, STEPS + 1, 10):
            log.add_scalar("loss", 1 / step + 0.001 * config["seed"], step)
            log.add_scalar("lr", 0.1, step)
            log.add_scalar("monitor/val_knn_accuracy", 0.3 + step / 200, step)
            log.add_image("views", torch.rand(3, 8, 16), step)
            log.add_text("guesses", f"<b>step {step}</b> & [MASK] -> </script><script>window.hacked = 1</script>", step)


def write(folder: Path, config: dict) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
