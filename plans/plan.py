"""A comparison in a few words: what is compared, how often, at which cost, judged how."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conf import choices_of
from conf.targets import fits
from errors import BadInput, nearest
from plans.words import task_parts, words_of
from ranges import Seed
from training.budget import UNITS, Budget

REFERENCES = {"image": "supervised", "text": "supervised_text"}  # the supervised objective for what an encoder reads
RANDOM = "random"
EVERY_RUN = "all"  # the entry of `settings` that is for every pre-training run
GROUPS = ("objective", "model", "datamodule", "transfer")  # whose choices have entries of their own
LAUNCHERS = ("basic", "joblib", "ray", "submitit_local", "submitit_slurm")  # likewise, and whichever is asked for


@dataclass(frozen=True)
class Plan:
    """What conf/compare.yaml explains; names are checked, nothing is opened.

    Attributes:
        models, datamodules: each objective meets each of them; None is the objective's own.
        budget: {unit: amount} or {}.
        tasks: to be judged on, each "datamodule word word ..."; () is the data that a run was pre-trained on.
        settings: name -> words of the command line, for the runs in which that name is chosen.
        slots: processes side by side.
    """

    objectives: tuple[str, ...]
    models: tuple[str | None, ...]
    datamodules: tuple[str | None, ...]
    seeds: tuple[int, ...]
    budget: dict[str, float]
    transfer: tuple[str, ...]
    label_fractions: tuple[float, ...]
    folder: Path
    experiment: str | None = None
    tasks: tuple[str, ...] = ()
    settings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    slots: int = 1
    launcher: str | None = None

    @classmethod
    def of(cls, config: dict[str, Any], name: str | None) -> "Plan":
        """From compare.py's configuration; `name` is the choice of conf/plan.

        Raises:
            BadInput: nothing to compare, a name that does not exist, or a number that cannot be.
        """
        baselines = {RANDOM, *REFERENCES.values()}  # they are always there
        fractions = tuple(dict.fromkeys(float(fraction) for fraction in listed(config["label_fractions"])))
        if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
            raise BadInput(f"label_fractions={list(fractions)} must be numbers above 0 and at most 1")
        tasks = tuple(listed(config["tasks"]))
        existing("datamodule", (task_parts(task)[0] for task in tasks), "tasks")
        slots = config["jobs"]
        if not isinstance(slots, int) or isinstance(slots, bool) or slots < 1:
            raise BadInput(f"jobs={slots} must be a number of processes, 1 or more")
        settings = config["settings"] or {}
        known = {EVERY_RUN, *LAUNCHERS, config["launcher"], *(name for group in GROUPS for name in choices_of(group))} - {None}
        for key in settings:
            if key not in known:
                raise BadInput(f"settings: there is nothing called '{key}'; {nearest(key, known)}")
        budget = {unit: amount for unit, amount in config["budget"].items() if amount is not None}
        if budget:
            Budget.of(budget, 1.0)
        return cls(
            existing("objective", (name for name in listed(config["objectives"]) if name not in baselines), "objectives", 1),
            existing("model", listed(config["model"]), "model") or (None,),
            existing("datamodule", listed(config["datamodule"]), "datamodule") or (None,),
            seeds_of(config["seeds"]),
            budget,
            existing("transfer", listed(config["transfer"]), "transfer", 1),
            fractions,
            Path(config["folder"] or Path("outputs", name or "comparison")),
            config["experiment"],
            tasks,
            {key: words_of(words) for key, words in settings.items()},
            slots,
            config["launcher"],
        )

    def words(self, *names: str | None) -> tuple[str, ...]:
        """The `settings` of these names, in this order."""
        return tuple(word for name in names for word in self.settings.get(name, ()))

    def budget_words(self, experiment: bool) -> tuple[str, ...]:
        """The plan's budget; it takes the place of the one that an experiment may have."""
        units = UNITS if experiment and self.budget else self.budget
        return tuple(f"budget.{unit}={self.budget.get(unit, 'null')}" for unit in units)

    @property
    def speed_words(self) -> tuple[str, ...]:
        """What transfers take over from the settings of every run."""
        return tuple(word for word in self.words(EVERY_RUN) if word.startswith("trainer"))


def listed(value: Any) -> list[Any]:
    """One, several or none as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def existing(group: str, names: Iterable[str], setting: str, fewest: int = 0) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        BadInput: the config group has no such choice, or there are too few.
    """
    names = tuple(dict.fromkeys(str(name) for name in names))
    choices = choices_of(group)
    for name in names:
        if name not in choices:
            raise BadInput(f"{setting}: there is no {group} '{name}'; {nearest(name, choices)}")
    if len(names) < fewest:
        choices = [choice for choice in choices if choice not in REFERENCES.values()]
        raise BadInput(f"{setting} names nothing to compare; choices: {', '.join(choices)}")
    return names


def seeds_of(value: Any) -> tuple[int, ...]:
    """3 is (0, 1, 2); a list is taken as it is.

    Raises:
        BadInput: no seeds, the same one twice, or something that is no seed.
    """
    counted = isinstance(value, int) and not isinstance(value, bool)
    seeds = tuple(range(value)) if counted else tuple(listed(value))
    if not seeds or not all(fits(seed, Seed) for seed in seeds):
        raise BadInput(f"seeds={value} must be a number of seeds, 1 or more, or a list of them such as [0,1,2]")
    if len(set(seeds)) < len(seeds):
        raise BadInput(f"seeds={list(seeds)} holds a seed twice; the same run again is no repetition")
    return seeds
