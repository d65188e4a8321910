"""Transfer: what a run learned -> one protocol on one task -> result."""

import os
import time
from pathlib import Path

from omegaconf import DictConfig

from conf import build
from conf.command import command
from conf.settings import Finetune, check_settings, given


@command(config_path="conf", config_name="finetune")
def main(config: DictConfig) -> float:
    """One transfer run; returns the test score."""
    import torch
    from hydra.core.hydra_config import HydraConfig

    from training.memory import forget_peak
    from training.ranks import check_alone
    from training.trainer import prepare_speed
    from transfer.kept import Kept
    from transfer.protocol import Bench, judged_part
    from transfer.record import finish
    from transfer.source import Source

    settings = given(config, Finetune)
    check_settings(settings, Finetune)
    check_alone(settings["trainer"])
    choices = HydraConfig.get().runtime.choices
    folder = Path(os.path.relpath(HydraConfig.get().runtime.output_dir))

    protocol = build(settings["transfer"])
    source = Source.find(settings, choices, protocol)
    seed = settings["seed"] = source.seed or 0 if settings["seed"] is None else settings["seed"]
    torch.manual_seed(seed)
    kept = Kept.of(source.read_as(settings, choices, protocol), settings["label_fraction"], seed)
    forget_peak()
    opened = source.open_data(settings.get("datamodule"), protocol)
    data = judged_part(protocol, opened, settings["label_fraction"], seed)
    model = source.model_for(protocol, opened.spec, data.spec)
    resolved = prepare_speed(model, settings["trainer"])
    model.to(resolved["device"])

    began = time.perf_counter()
    trainer = settings["trainer"] | {"workers": resolved["workers"]}
    metrics = protocol(model, data, Bench(folder, seed, trainer, resolved["precision"], kept))
    seconds = time.perf_counter() - began
    return finish(folder, settings, choices, source, protocol, data, model, metrics, seconds, kept, resolved)


if __name__ == "__main__":
    main()
