"""Compare: a plan -> the runs that are missing -> table, verdicts and report; or only the report on runs that exist."""

from pathlib import Path

from omegaconf import DictConfig

from conf.command import command
from conf.composition import COMPARISON, store_comparison
from conf.settings import Compare, check_kinds, given

store_comparison()


@command(config_path=None, config_name=COMPARISON)
def main(config: DictConfig) -> None:
    """Run what a plan lacks, then say what its results show and what they do not."""
    from hydra.core.hydra_config import HydraConfig

    from errors import BadInput, RunStopped
    from plans.board import LiveBoard
    from plans.identity import Shelf
    from plans.jobs import jobs_of
    from plans.lock import sole_user
    from plans.plan import Plan
    from plans.running import Hands, do
    from reports.summary import console, summarise
    from reports.table import collect, comparable

    settings = given(config, Compare)
    check_kinds(settings, Compare)
    name = HydraConfig.get().runtime.choices.plan
    planned = name is not None or settings["objectives"]
    if bool(planned) == (settings["report"] is not None):
        raise BadInput("give one of objectives=[mae,simclr], plan=images_demo (both run and report), report=<folder>")
    if not planned:
        folder = Path(settings["report"])
        summarise(folder, *collect(folder))
        return

    plan = Plan.of(settings, name)
    with sole_user(plan.folder) as lock:
        jobs = jobs_of(plan, Shelf(plan.folder))
        with LiveBoard(console()) as board:
            work = do(jobs, Hands(plan.slots, plan.launcher, plan.words(plan.launcher), lock), board)
        results, left_out = comparable(job.folder / "result.json" for job in work.done if job.script == "finetune")
        failures = [f"{failure.job.label} failed: {failure}" for failure in work.failed]
        summarise(plan.folder, results, list(dict.fromkeys((*Shelf(plan.folder).broken, *left_out, *failures))))
    if work.failed:
        raise RunStopped(f"{len(work.failed)} of {len(jobs)} jobs failed; the same command tries them again", exit_code=1)


if __name__ == "__main__":
    main()
