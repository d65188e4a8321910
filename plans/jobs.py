"""From a plan to the list of its runs: one for each encoder, one for each time that it is judged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import BadInput
from plans.entrants import Base, Entrant, bases, composed, references, task_words, trained
from plans.identity import Shelf, key_of, run_identity, transfer_identity
from plans.job import Job
from plans.plan import RANDOM, Plan
from plans.words import last_of_each, literal


@dataclass(frozen=True)
class Judged:
    """An encoder with one seed, and the data that it is judged on.

    Attributes:
        who: what a person calls it.
        name: of its folder.
        words: of finetune.py that say which encoder, and which data where they are not those of its training.
        source: identity of the pre-training run; None is random initialisation.
        task: of the plan's tasks; None is the data of its training.
    """

    who: str
    name: str
    seed: int
    words: tuple[str, ...]
    source: dict[str, Any] | None
    task: str | None
    after: Job | None


def jobs_of(plan: Plan, shelf: Shelf) -> list[Job]:
    """All jobs in the order in which they should be done: seed after seed, what costs least first.

    So a plan that is stopped has whole seeds and the baselines that they are compared with.

    Raises:
        BadInput: a combination that cannot be.
    """
    if plan.launcher is not None:
        composed("train", (f"hydra/launcher={plan.launcher}", *plan.words(plan.launcher)))  # is it installed?
    objectives = trained(plan)
    random, supervised = [], []
    for base in bases(objectives):
        first = encoder_job(plan, shelf, base.like, plan.seeds[0])
        shape = shape_words(plan, base, first)
        waits = first if plan.tasks and base.modality == "text" else None  # it trains the tokenizer
        random.append((base, shape, waits))
        supervised += [(entrant, waits if entrant.task else None) for entrant in references(plan, base, shape)]
    jobs: list[Job] = []
    for seed in plan.seeds:
        for base, shape, waits in random:
            for judged in untrained(plan, base, seed, shape, waits):
                jobs += transfers(plan, shelf, judged)
        for entrant, waits in (*supervised, *((entrant, None) for entrant in objectives)):
            encoder = encoder_job(plan, shelf, entrant, seed, waits)
            jobs.append(encoder)
            for task in (entrant.task,) if entrant.task else plan.tasks or (None,):
                source = run_identity(entrant.settings | {"seed": seed})
                words = (f"checkpoint={literal(encoder.folder)}", *(task_words(plan, task) if task else ()))
                jobs += transfers(plan, shelf, Judged(encoder.label, encoder.folder.name, seed, words, source, task, encoder))
    return jobs


def encoder_job(plan: Plan, shelf: Shelf, entrant: Entrant, seed: int, after: Job | None = None) -> Job:
    """Pre-training with one seed."""
    key = key_of(run_identity(entrant.settings | {"seed": seed}))
    who = (entrant.objective, entrant.model, entrant.datamodule)
    found = shelf.folders.get(key)
    folder = found or plan.folder / "-".join([*who, f"seed{seed}", key[:6]])
    label = f"{' '.join(who)} seed {seed}"
    return Job(label, "train", (*entrant.words, f"seed={seed}"), folder, after, found=found is not None)


def untrained(plan: Plan, base: Base, seed: int, shape: Sequence[str], waits: Job | None) -> Iterator[Judged]:
    """Random initialisation on each task; it waits for a job whose tokenizer it takes over."""
    who = (RANDOM, base.like.model, base.like.datamodule)
    for task in plan.tasks or (None,):
        data = (*task_words(plan, task), *shape) if task else base.data
        words = ("checkpoint=none", *base.model, *data)
        yield Judged(f"{' '.join(who)} seed {seed}", "-".join([*who, f"seed{seed}"]), seed, words, None, task, waits)


def transfers(plan: Plan, shelf: Shelf, judged: Judged) -> Iterator[Job]:
    """Every protocol and label fraction."""
    where = f" on {slug(judged.task)}" if judged.task else ""
    for protocol in plan.transfer:
        words = last_of_each(judged.words, plan.speed_words, plan.words(protocol))
        settings, _ = composed("finetune", (f"transfer={protocol}", *words[1:]))
        words = (*words, f"seed={judged.seed}")
        group = f"{slug(judged.task) if judged.task else 'own'}-{key_of(words)[:6]}"
        for fraction in plan.label_fractions:
            asked = settings | {"label_fraction": fraction, "seed": judged.seed}
            found = shelf.folders.get(key_of(transfer_identity(asked, judged.source)))
            folder = found or plan.folder / "transfer" / judged.name / group / f"{protocol}_{fraction}"
            label = f"{protocol}{'' if fraction == 1 else f' @ {fraction:g}'} of {judged.who}{where}"
            yield Job(label, "finetune", words, folder, judged.after, protocol, fraction, found is not None)


def shape_words(plan: Plan, base: Base, first: Job) -> list[str]:
    """What the tasks' data must have in common with those that were pre-trained on, for encoders that saw only the former.

    Raises:
        BadInput: the size of pictures is not said.
    """
    if not plan.tasks:
        return []
    if base.modality == "text":
        return [f"datamodule.tokenizer.path={literal(first.folder)}"]
    size = base.like.settings["datamodule"]["image_size"]
    if size is None:
        raise BadInput("on other data pictures need one size for all encoders: 'settings={all:{datamodule.image_size:32}}'")
    return [f"datamodule.image_size={size}"]


def slug(task: str) -> str:
    """A task's name in folders and labels: "glue datamodule.task=cola" is glue-cola."""
    name, *words = task.split()
    return "-".join([name, *(Path(word.partition("=")[2]).stem for word in words)])
