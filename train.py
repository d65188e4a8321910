"""Pre-train an encoder: config -> data -> encoder -> objective -> fit -> result."""

import hydra
from omegaconf import DictConfig, OmegaConf

from conf import build
from conf.command import command

# a resumed run goes on in its own folder; where that is missing, nothing is created before the error is told
OmegaConf.register_new_resolver("run_folder", lambda resume, fresh: fresh if resume is None else ".", replace=True)


@command
@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(config: DictConfig) -> float:
    """One run; returns the validation k-NN accuracy, or minus the last loss where there are no labels."""
    import torch
    from hydra.core.hydra_config import HydraConfig

    from training.budget import Budget
    from training.checkpoints import Checkpoints
    from training.fitting import check_fit, check_needs, face
    from training.flops import forward_flops, sample_flops
    from training.monitors import Monitors, affordable_probes
    from training.pretraining import Pretraining
    from training.progress import ProgressLine
    from training.run import Run
    from training.trainer import build_trainer, prepare_speed
    from transfer.knn import validation_probe

    hydra_config = HydraConfig.get()
    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    settings["names"] = {group: hydra_config.runtime.choices[group] for group in ("objective", "model", "datamodule")}
    check_fit(settings["names"])
    run = Run.open(settings, hydra_config.runtime.output_dir)
    seed = run.config["seed"]
    torch.manual_seed(seed)

    data = face(run.config["names"], build(run.config["datamodule"]))
    encoder = build(run.config["model"], spec=data.spec)
    check_needs(run.config["names"], encoder, data.spec)
    objective = build(run.config["objective"], encoder=encoder, spec=data.spec)
    objective.check_batch(data.batch_size)
    optimization = build(run.config["optimizer"])
    resolved = prepare_speed(objective, run.config["trainer"])

    budget = Budget.of(run.config["budget"], run.config["trial_flops"])
    first_batch = next(iter(data.train_loader(objective.views(), seed, num_batches=1)))
    flops = sample_flops(objective, first_batch, data.batch_size)
    num_steps = budget.num_steps(data.batch_size, data.spec.num_train, flops)

    recipe = encoder.exported()[1]
    module = Pretraining(objective, optimization, num_steps, data.batch_size, seed, {"config": run.config, "encoder": recipe})
    monitors = Monitors(
        data,
        validation_probe,
        *affordable_probes(
            **run.config["monitor"],
            run_flops=flops * data.batch_size * num_steps,
            picture_flops=forward_flops(encoder, first_batch),
        ),
    )
    progress = ProgressLine(paused=lambda: monitors.seconds)
    checkpoints = Checkpoints(run.folder, run.config["trainer"]["checkpoint_every_steps"])
    trainer = build_trainer(
        run.config["trainer"], run.folder, num_steps, optimization.clip_norm, [progress, monitors, checkpoints]
    )
    loader = data.train_loader(
        objective.views(),
        seed,
        num_steps,
        run.first_step,
        run.config["trainer"]["workers"],
        trainer.global_rank,
        trainer.world_size,
    )
    run.claim()
    run.announce(module, data.spec, flops, resolved)
    trainer.fit(module, loader, ckpt_path=run.resume_point, weights_only=True)
    return run.finish(module, data.spec, budget, flops, resolved, progress, monitors)


if __name__ == "__main__":
    main()
