"""From a plan to the list of its runs: one for each encoder, one for each time that it is judged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf import choices_of, class_of, modality
from errors import BadInput
from plans.entrants import Base, Entrant, bases, composed, has_pair, references, task_words, trained
from plans.identity import Shelf, key_of, run_identity, transfer_identity
from plans.job import Job
from plans.plan import RANDOM, Plan
from plans.words import last_of_each, literal, task_parts
from transfer.protocol import takes_pair


@dataclass(frozen=True)
class Judged:
    """An encoder with one seed, and the data that it is judged on.

    Attributes:
        who: what a person calls it.
        name: of its folder.
        words: of finetune.py that say which encoder, and which data where they are not those of its training.
        source: identity of the pre-training run; None is random initialisation.
        task: of the plan's tasks; None is the data of its training.
        after: the job that must be finished before.
        pair: more words for protocols that take two towers; None where there is one only.
    """

    who: str
    name: str
    seed: int
    words: tuple[str, ...]
    source: dict[str, Any] | None
    task: str | None
    after: Job | None
    pair: tuple[str, ...] | None


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
                pair = () if has_pair(entrant.objective) else None
                judged = Judged(encoder.label, encoder.folder.name, seed, words, source, task, encoder, pair)
                jobs += transfers(plan, shelf, judged)
    for protocol in plan.transfer:
        if not any(job.protocol == protocol for job in jobs):
            fitting = ", ".join(filter(has_pair, choices_of("objective")))
            raise BadInput(
                f"transfer={protocol} compares pictures with texts, and none of objectives=[{','.join(plan.objectives)}] has "
                f"encoders for both; objective choices that fit: {fitting}"
            )
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
        # a fresh text tower is built for the words of captions
        captioned = modality("datamodule", task_parts(task)[0] if task else base.like.datamodule) == "image_text"
        pair = (f"text_model={base.text_model}",) if base.text_model and captioned else None
        yield Judged(f"{' '.join(who)} seed {seed}", "-".join([*who, f"seed{seed}"]), seed, words, None, task, waits, pair)


def transfers(plan: Plan, shelf: Shelf, judged: Judged) -> Iterator[Job]:
    """Every protocol that the encoder can take, and every label fraction where labels are learned from."""
    where = f" on {slug(judged.task)}" if judged.task else ""
    for protocol in plan.transfer:
        on_pair = takes_pair(class_of("transfer", protocol))
        if on_pair and judged.pair is None:
            continue
        words = last_of_each(judged.words, judged.pair if on_pair else (), plan.speed_words, plan.words(protocol))
        settings, _ = composed("finetune", (f"transfer={protocol}", *words[1:]))
        words = (*words, f"seed={judged.seed}")
        group = f"{slug(judged.task) if judged.task else 'own'}-{key_of(words)[:6]}"
        for fraction in (1.0,) if on_pair else plan.label_fractions:
            asked = settings | {"label_fraction": fraction, "seed": judged.seed}
            anew = judged.after is not None and not judged.after.found  # what judged the lost encoder says nothing of it
            found = None if anew else shelf.folders.get(key_of(transfer_identity(asked, judged.source)))
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
    name, words = task_parts(task)
    return "-".join([name, *(Path(word.partition("=")[2].strip('"')).stem for word in words)])
