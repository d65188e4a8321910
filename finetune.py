"""Transfer: a run's encoder -> one protocol on one labelled task -> result."""

import os
import time
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from conf import build
from conf.command import command


@command
@hydra.main(config_path="conf", config_name="finetune", version_base="1.3")
def main(config: DictConfig) -> float:
    """One transfer run; returns the test score."""
    import torch
    from hydra.core.hydra_config import HydraConfig

    from training.fitting import modality
    from training.ranks import check_alone
    from training.trainer import prepare_speed
    from transfer.protocol import Bench, check_task
    from transfer.source import Source, finish

    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    check_alone(settings["trainer"])
    choices = HydraConfig.get().runtime.choices
    folder = Path(os.path.relpath(HydraConfig.get().runtime.output_dir))
    seed = settings["seed"]
    torch.manual_seed(seed)

    kind = modality("datamodule", choices["datamodule"]) if choices.get("datamodule") else "image"
    source = Source.find(settings["checkpoint"], settings["outputs"], settings.get("model"), choices.get("model"), kind)
    data = source.open_task(settings.get("datamodule"))
    check_task(data)
    data = data.with_label_fraction(settings["label_fraction"], seed)
    encoder = source.encoder or build(source.model_settings, spec=data.spec)
    resolved = prepare_speed(encoder, settings["trainer"])

    protocol = build(settings["transfer"])
    began = time.perf_counter()
    metrics = protocol(encoder, data, Bench(folder, seed, settings["trainer"], resolved["precision"]))
    seconds = time.perf_counter() - began
    return finish(folder, settings, choices, source, data, encoder, metrics, seconds, resolved)


if __name__ == "__main__":
    main()
