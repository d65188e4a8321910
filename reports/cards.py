"""One card a run: how to make it again, how it differs from the others, what it cost, and what it shows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from reports.amounts import amount, percent
from reports.events import Picture
from reports.runs import Run, Transfer
from reports.scores import block, column, protocol, score, spent_on, starts, task

MOST_BYTES = 12_000_000  # of pictures on one page; what is beyond stays in TensorBoard
MOST_APART = 0.05  # of spent FLOPs, as a share: a budget ends with a whole step
MANY = 4  # entrants with one budget, which are not listed by their names
UNSAID = ("names", "seed", "resume")  # the title of a card says them
UNEQUAL = (*UNSAID, "trainer", "monitor")  # speed changes nothing that is learned, and monitors only look


@dataclass(frozen=True)
class Card:
    """What the page shows of a run.

    Attributes:
        title: objective, model, data, seed.
        run: see `reports.runs`.
        line: what it cost, in one line.
        facts: (name, value) of cost, speed, versions and commit.
        differences: (setting, value here, values of the other runs).
        pictures: those that there is room for.
        left_out: how many pictures there was no room for.
        tests: (protocol and task, labels, score, command, whether the command is exact).
    """

    title: str
    run: Run
    line: str
    facts: list[tuple[str, str]]
    differences: list[tuple[str, str, str]]
    pictures: list[Picture]
    left_out: int
    tests: list[tuple[str, str, str, str, bool]]


def cards_of(parts: Sequence[Sequence[Run]]) -> list[Card]:
    """A card for each run; the runs of one part are compared with each other."""
    room, cards = MOST_BYTES, []
    for runs in parts:
        settings = [flat({key: value for key, value in run.config.items() if key not in UNSAID}) for run in runs]
        for run, own in zip(runs, settings, strict=True):
            others = [other for other in settings if other is not own and other]
            fit = []
            for picture in run.events.pictures:
                if len(picture.uri) <= room:
                    fit.append(picture)
                    room -= len(picture.uri)
            cards.append(
                Card(
                    f"{run.objective}, {run.model}, {run.data}, seed {run.seed}",
                    run,
                    cost_line(run),
                    facts(run),
                    differences(own, others),
                    fit,
                    len(run.events.pictures) - len(fit),
                    [_test(transfer) for transfer in run.transfers],
                )
            )
    return cards


def cost_line(run: Run) -> str:
    """ "2.8e12 FLOPs, 2,752 samples, 31 seconds"."""
    if run.objective == "random":
        return "random initialisation, no pre-training"
    known = [
        (name, spent_on(run.spent, key)) for name, key in (("FLOPs", "flops"), ("samples", "samples"), ("seconds", "seconds"))
    ]
    return ", ".join(f"{amount(value)} {name}" for name, value in known if value is not None)


def facts(run: Run) -> list[tuple[str, str]]:
    """Cost, speed, losses, versions and commit, as far as they are recorded."""
    record = run.record or run.test
    found = (
        [] if run.objective == "random" else [(name, amount(value)) for name, value in run.spent.items() if value is not None]
    )
    if run.record is not None:
        if record.samples_per_second:
            found.append(("samples per second", amount(record.samples_per_second)))
        if record.peak_memory_bytes:
            found.append(("peak memory", f"{record.peak_memory_bytes / 2**30:.2f} GiB"))
        found += [(name.replace("_", " "), _number(value)) for name, value in record.metrics.items()]
    found += [(f"parameters, {name}", f"{num:,}") for name, num in record.parameters.items()]
    found += [(name.replace("_", " "), _number(value)) for name, value in record.settings.items()]
    found.append(("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items()) or "not recorded"))
    found.append(("commit", record.git_commit or "not recorded"))
    if run.folder is not None:
        found.append(("folder", str(run.folder)))
    return found


def flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def differences(own: dict[str, Any], others: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(setting, value here, the other runs' values) where not all are the same; of settings that this run has."""
    found = []
    for key, value in own.items():
        there = [_value(other[key]) if key in other else "not there" for other in others]
        if any(text != _value(value) for text in there):
            found.append((key, _value(value), ", ".join(sorted({text for text in there if text != _value(value)}))))
    return found


def warnings(runs: Sequence[Run], names: dict[str, str]) -> list[str]:
    """What makes a comparison unequal without showing in a table.

    That is: runs that are averaged and differ, entrants with different budgets or FLOPs, seeds that share a start, test splits
    of different sizes, and package versions.

    Args:
        names: anchor of a run -> its entrant.
    """
    found = [
        *_averaged(runs, names),
        *_budgets(runs, names),
        *_spent(runs, names),
        *_one_start(runs, names),
        *_test_samples(runs),
    ]
    packages: dict[str, set[str]] = {}
    for run in runs:
        for name, version in (run.record or run.test).versions.items():
            packages.setdefault(name, set()).add(version)
    several = [f"{name} ({', '.join(sorted(versions))})" for name, versions in packages.items() if len(versions) > 1]
    return [*found, f"Runs were made with different versions of {', '.join(several)}."] if several else found


def _averaged(runs: Sequence[Run], names: dict[str, str]) -> list[str]:
    found, groups = [], {}
    for run in runs:
        for data in {task(test.result) for test in run.transfers}:
            groups.setdefault((names[run.anchor], data), []).append(run)
    for (name, _), group in sorted(groups.items()):
        settings = [
            flat({key: value for key, value in run.config.items() if key not in UNEQUAL}) for run in group if run.config
        ]
        keys = sorted({key for own in settings for key in own if any(other.get(key) != own[key] for other in settings)})
        if keys:
            found.append(f"Runs of {name} are averaged though they differ in {', '.join(keys)}.")
    return list(dict.fromkeys(found))


def _budgets(runs: Sequence[Run], names: dict[str, str]) -> list[str]:
    """Entrants that took the same test after pre-training for different budgets."""
    found, met = [], {}
    for run in runs:
        asked = _budget(run)
        if asked is not None:
            for test in run.transfers:
                met.setdefault(block(test.result), {}).setdefault(names[run.anchor], set()).add(asked)
    for entrants in met.values():
        groups: dict[str, list[str]] = {}
        for name, budgets in sorted(entrants.items()):
            groups.setdefault(" and ".join(sorted(budgets)), []).append(name)
        if len(groups) > 1:
            *few, (usual, most) = sorted(groups.items(), key=lambda group: len(group[1]))
            listed = [f"{budget} for {' and '.join(sharing)}" for budget, sharing in few]
            listed.append(f"{usual} for " + (" and ".join(most) if len(most) < MANY else f"the other {len(most)}"))
            found.append(f"Entrants had different budgets: {', '.join(listed)}.")
    return sorted(set(found))


def _spent(runs: Sequence[Run], names: dict[str, str]) -> list[str]:
    """Entrants that took the same test and spent FLOPs that differ by more than `MOST_APART`, whatever was asked for."""
    found, met = [], {}
    for run in runs:
        flops = spent_on(run.spent, "flops")
        if flops and run.objective != "random":
            for key in {block(test.result) for test in run.transfers}:
                met.setdefault(key, {}).setdefault(names[run.anchor], []).append(flops)
    for entrants in met.values():
        means = {name: mean(flops) for name, flops in sorted(entrants.items())}
        least, most = min(means, key=means.get), max(means, key=means.get)
        more = means[most] / means[least] - 1
        if more > MOST_APART:
            found.append(
                f"Entrants spent different FLOPs: from {amount(means[least])} for {least} to {amount(means[most])} for {most}, "
                f"{100 * more:.0f} % more."
            )
    return sorted(set(found))


def _one_start(runs: Sequence[Run], names: dict[str, str]) -> list[str]:
    """Entrants whose seeds share what they began with or learned from: that part was not repeated."""
    begun: dict[str, dict[int, list[str]]] = {}
    for run in runs:
        begun.setdefault(names[run.anchor], {})[run.seed] = starts(run.test)
    found = []
    for name, by_seed in sorted(begun.items()):
        taken = [start for own in by_seed.values() for start in set(own)]
        shared = sorted({start for start in taken if taken.count(start) > 1})
        if shared:
            found.append(f"Seeds of {name} share {', '.join(shared)}: spread and claims are given this one start.")
    return found


def _budget(run: Run) -> str | None:
    """ "2e13 FLOPs", as it was asked for; None where nothing says so, or there was no pre-training."""
    asked = run.record.budget_asked if run.record is not None else {}
    if {"unit", "amount"} <= asked.keys():
        return _said(asked["amount"], asked["unit"])
    budget = run.config.get("budget")
    known = budget.items() if isinstance(budget, dict) else ()
    return ", ".join(_said(most, unit) for unit, most in known if isinstance(most, int | float)) or None


def _said(most: float, unit: str) -> str:
    return f"{most:g} {'FLOPs' if unit == 'flops' else unit}".replace("e+", "e")


def _test_samples(runs: Sequence[Run]) -> list[str]:
    sizes: dict[str, set[int]] = {}
    for result in (test.result for run in runs for test in run.transfers):
        if result.transfer.get("num_test") is not None:
            sizes.setdefault(f"{protocol(result)} on {task(result)}", set()).add(result.transfer["num_test"])
    return [
        f"{test} was tested on {' and '.join(f'{num:,}' for num in sorted(found))} samples."
        for test, found in sorted(sizes.items())
        if len(found) > 1
    ]


def _test(transfer: Transfer) -> tuple[str, str, str, str, bool]:
    result = transfer.result
    labels = result.transfer.get("num_labels")
    return f"{column(result)} on {task(result)}", amount(labels), percent(score(result)), transfer.command, transfer.exact


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
