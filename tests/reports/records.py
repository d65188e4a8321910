"""Made-up results for the tests of the statistics."""

import numpy as np

from reports.result import Result


def record(
    objective: str,
    seed: int,
    accuracy: float,
    *,
    protocol: str = "knn",
    task: str = "emoji",
    fraction: float = 1.0,
    labels: int = 1000,
    model: str = "vit_t",
    protocol_seed: int = 0,
    spent: dict[str, float] | None = None,
) -> Result:
    transfer = {
        "protocol": protocol, "data": task, "label_fraction": fraction, "num_labels": labels, "seed": protocol_seed,
        "metric": "accuracy", "checkpoint": f"{objective}{seed}",
    }  # fmt: skip
    return Result(
        "transfer", objective, model, task, seed, budget_spent=spent or {}, metrics={"accuracy": accuracy}, transfer=transfer
    )


def drawn(
    rng: np.random.Generator,
    means: dict[str, float],
    num_seeds: int,
    num_tasks: int = 1,
    spread: float = 0.01,
    shared: float = 0.0,
    skewed: bool = False,
) -> list[Result]:
    """Scores of every objective: its mean + what its encoder has in common on all tasks (`shared` of the variance) + the rest.

    Tasks differ by ten points each. `skewed` draws from an exponential distribution of the same standard deviation.
    """
    results = []
    for objective, mean in means.items():
        noise = rng.exponential(size=(num_seeds, num_tasks + 1)) - 1 if skewed else rng.normal(size=(num_seeds, num_tasks + 1))
        for seed in range(num_seeds):
            for task in range(num_tasks):
                own = shared**0.5 * noise[seed, -1] + (1 - shared) ** 0.5 * noise[seed, task]
                results.append(record(objective, seed, mean + 0.1 * task + spread * own, task=f"task{task}"))
    return results
