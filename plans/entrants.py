"""The rows of a plan's table: its objectives, and supervised training on every model and data set among them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from conf import class_of, modality
from conf.composition import compose_settings
from errors import BadInput
from plans.identity import key_of
from plans.plan import EVERY_RUN, REFERENCES, Plan
from plans.words import differences, last_of_each, task_parts
from training.fitting import check_fit, has_task

NO_MATTER = ("batch_size", "block_length", "start_token")  # of data, to an encoder that was not trained on them


@dataclass(frozen=True)
class Entrant:
    """A pre-training that is compared.

    Attributes:
        objective, model, datamodule: names.
        words: of train.py, without the seed.
        settings: the configuration that they compose to.
        task: of the plan's tasks, the one that it was trained on and is judged on; None is judged on all.
    """

    objective: str
    model: str
    datamodule: str
    words: tuple[str, ...]
    settings: dict[str, Any]
    task: str | None = None


@dataclass(frozen=True)
class Base:
    """A model and data that are compared, whatever the objective: what baselines are needed for.

    Attributes:
        like: the first entrant that has them.
        model, data: the words that say which they are.
        text_model: beside the model, in the first entrant of two towers; None where there is none.
    """

    like: Entrant
    model: tuple[str, ...]
    data: tuple[str, ...]
    text_model: str | None = None

    @property
    def modality(self) -> str:
        return modality("model", self.like.model)


def trained(plan: Plan) -> list[Entrant]:
    """The objectives that were asked for, on each model and data set.

    Raises:
        BadInput: they do not belong together, or the data have no labels to judge on.
    """
    return [
        entrant(plan, objective, [f"model={model}"] if model else [], [f"datamodule={data}"] if data else [])
        for data in plan.datamodules
        for model in plan.models
        for objective in plan.objectives
    ]


def entrant(plan: Plan, objective: str, model: Sequence[str], data: Sequence[str], task: str | None = None) -> Entrant:
    """One objective with the words for its model and data, if there are any."""
    experiment = [f"experiment={plan.experiment}"] if plan.experiment else []

    def words_for(model_name: str | None) -> tuple[str, ...]:
        own = plan.words(EVERY_RUN, data[0].partition("=")[2] if data else None, model_name, objective)
        budget = plan.budget_words(any(word.startswith("experiment=") for word in (*experiment, *own)))
        return last_of_each([f"objective={objective}"], experiment, model, data, budget, own)

    try:
        words = words_for(composed("train", words_for(None))[1]["model"])
        settings, choices = composed("train", words)
    except BadInput as error:
        raise BadInput(f"objective={objective}: {error}") from error
    names = {group: choices[group] for group in ("objective", "model", "datamodule")}
    check_fit(names)
    if not has_task(names["datamodule"]) and not plan.tasks:
        raise BadInput(f"datamodule={names['datamodule']} has no labels to judge on; name other data, tasks=[...]")
    return Entrant(*names.values(), words, settings | {"names": names}, task)


def bases(entrants: Sequence[Entrant]) -> list[Base]:
    """The models and data among the entrants, each once."""
    found: dict[str, Base] = {}
    for like in entrants:
        groups = {"model": like.model, "datamodule": like.datamodule}
        usual, _ = composed("train", tuple(f"{group}={name}" for group, name in groups.items()), complete=False)
        settings = {group: {key: value for key, value in like.settings[group].items() if key != "init"} for group in groups}
        model, data = (  # baselines begin with nothing
            (f"{group}={name}", *differences(settings[group], usual[group], group)) for group, name in groups.items()
        )
        matters = {name: value for name, value in like.settings["datamodule"].items() if name not in NO_MATTER}
        key = key_of([model, like.datamodule, matters])
        base = found.setdefault(key, Base(like, model, data))
        if base.text_model is None and has_pair(like.objective):
            found[key] = replace(base, text_model=like.settings["objective"]["text_model"])
    return list(found.values())


def has_pair(objective: str) -> bool:
    """Whether an objective trains two towers, which protocols like retrieval need."""
    return hasattr(class_of("objective", objective), "pair")


def references(plan: Plan, base: Base, shape: Sequence[str]) -> list[Entrant]:
    """Supervised training on the same data, or where these have no labels on each task.

    Args:
        shape: words that give the tasks' data what an encoder of this base needs.
    """
    objective = REFERENCES[base.modality]
    if has_task(base.like.datamodule):
        return [entrant(plan, objective, base.model, base.data)]
    return [entrant(plan, objective, base.model, [*task_words(plan, task), *shape], task) for task in plan.tasks]


def task_words(plan: Plan, task: str) -> tuple[str, ...]:
    """The words of a task: its data module's name, its own words, and the plan's settings of that name."""
    name, words = task_parts(task)
    return last_of_each([f"datamodule={name}"], words, plan.words(name))


@cache
def composed(command: str, words: tuple[str, ...], complete: bool = True) -> tuple[dict[str, Any], dict[str, str]]:
    """As `compose_settings`; what it gives must not be changed."""
    return compose_settings(command, words, complete)
