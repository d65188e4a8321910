"""Pre-train an encoder: config -> data -> encoder -> objective -> fit -> result."""

from omegaconf import DictConfig, OmegaConf

from conf import build
from conf.command import begins_here, command
from conf.settings import Train, check_settings, given

# a resumed run goes on in its own folder, other ranks in the first one's: for them Hydra creates none
OmegaConf.register_new_resolver("run_folder", lambda resume, fresh: fresh if begins_here(resume) else ".", replace=True)


@command(config_path="conf", config_name="train")
def main(config: DictConfig) -> float:
    """One run; returns the validation k-NN accuracy, or minus the last loss where there are no labels."""
    import torch
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from training.accumulation import check_accumulation, check_batch
    from training.arrangement import Arrangement, freeze_unused
    from training.budget import Budget
    from training.checkpoints import Checkpoints
    from training.energy import Energy
    from training.fitting import check_fit, check_needs, face
    from training.flops import forward_flops, sample_flops, typical_batch
    from training.launch import launched
    from training.memory import forget_peak
    from training.monitors import Monitors
    from training.pretraining import Pretraining
    from training.progress import ProgressLine
    from training.ranks import join
    from training.record import announce, finish
    from training.run import AUTO, Run, resumed, score
    from training.throughput import Throughput
    from training.trainer import build_trainer, fit, prepare_speed
    from transfer.knn import validation_probe

    hydra_config = HydraConfig.get()
    settings = given(config, Train)
    settings["names"] = {group: hydra_config.runtime.choices[group] for group in ("objective", "model", "datamodule")}
    folder = settings["resume"] if settings["resume"] not in (None, AUTO) else hydra_config.runtime.output_dir
    settings = resumed(settings, folder, hydra_config.overrides.task)
    check_fit(settings["names"])
    check_settings(settings, Train)
    if launched(settings["trainer"], hydra_config.overrides.task, folder, hydra_config.mode == RunMode.MULTIRUN):
        return score(folder)  # of several devices each had a process of its own, which ran what follows
    ranks = join(settings["trainer"])
    run = ranks.agree(lambda: Run.open(settings, folder))
    if run.finished:
        return score(folder)
    start, seed, speed = run.start, run.config["seed"], run.config["trainer"]
    torch.manual_seed(seed)
    forget_peak()

    data = face(start.names, start.open_data())
    encoder = start.build_encoder(data.spec)
    check_needs(start.names, encoder, data.spec)
    objective = build(run.config["objective"], encoder=encoder, spec=data.spec)
    begins = start.described(with_heads=start.load_heads(objective))
    objective.check_batch(data.batch_size)
    optimization = build(run.config["optimizer"])
    resolved = prepare_speed(objective, speed, ranks.local_size) | ranks.described(speed["strategy"])

    budget = Budget.of(run.config["budget"], run.config["trial_flops"])
    check_batch(data.batch_size, ranks.size, speed["accumulate"])
    batch = typical_batch(data, objective.views(), seed)
    check_accumulation(objective, batch, speed["accumulate"])
    flops = sample_flops(objective, batch, data.batch_size)
    course = budget.course(data.batch_size, data.spec, flops)

    recipes = {name: part.exported()[1] for name, part in objective.exports().items()}
    arrangement = Arrangement.of(speed, resolved)
    if ranks.size > 1:
        freeze_unused(objective, batch)
    plain = {"config": run.config, "data": data.spec.facts, **recipes}
    module = Pretraining(objective, optimization, course, data.batch_size, seed, plain, arrangement)
    picture_flops = forward_flops(encoder, batch)
    monitors = Monitors(data, validation_probe, **run.config["monitor"], sample_flops=flops, picture_flops=picture_flops)
    checkpoints = Checkpoints(run.folder, speed["checkpoint_every_steps"])
    energy = Energy()
    throughput = Throughput(flops, data.spec.block_length if data.modality == "text" else 1, resolved["precision"])
    callbacks = [ProgressLine(), monitors, energy, checkpoints, throughput]
    resumed_at = run.first_step if run.begun else None
    trainer = build_trainer(speed, run.folder, course, optimization.clip_norm, callbacks, ranks, resumed_at)
    workers = resolved["workers"]
    loader = data.train_loader(objective.views(), seed, course.most_steps, run.first_step, workers, ranks.rank, ranks.size)
    ranks.agree(run.claim)
    if ranks.first:
        announce(run, module, data.spec, budget, flops, resolved, begins)
    fit(trainer, module, loader, run.resume_point)
    found = finish(run, module, data.spec, budget, flops, resolved, monitors, energy)
    ranks.part()
    return found


if __name__ == "__main__":
    main()
