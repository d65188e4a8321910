"""A/A: one objective compared with itself under two names, on real runs; how often is a difference claimed?

144 small encoders that differ only in their seed are pre-trained and tested. They make 24 pairs of seed sets, three against
three, none of which shares a run with another: about one in twenty should be claimed different. Then sets are drawn from
the same encoders at random, many times, first as they are, then with 3 points planted on one side and as many seeds as the
report's own power calculation asks for at the spread of these runs.

    python benchmarks/a_a.py [<folder to keep the runs in>]     # about 25 minutes on one core; goes on where it stopped
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gate import until_stopped
from reports.result import Result, read_result
from reports.statistics import ALPHA, Pair, compare_pairs, power, seeds_needed
from reports.table import collect
from reports.verdict import verdict

HOME = Path(__file__).parents[1]
PAIRS, SEEDS, DRAWS, POINTS = 24, 3, 2000, 3
NUM_RUNS = 2 * SEEDS * PAIRS
SMALL = (
    "objective=mae", "model.depth=1", "objective.decoder_width=64", "objective.decoder_depth=1", "datamodule.image_size=32",
    "datamodule.batch_size=32", "datamodule.skin_tones=false", "budget.steps=10", "optimizer.base_lr=4e-3", "monitor.times=0",
)  # fmt: skip


def make_runs(folder: Path) -> list[Result]:
    """Pre-train and test what is not there yet, each in one process; returns all results."""
    runs = [folder / str(seed) for seed in range(NUM_RUNS)]
    new = [run.name for run in runs if not (run / "encoder.json").exists()]
    if new:
        sweep("train.py", f"seed={','.join(new)}", *SMALL, f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=${seed}")
    for protocol in ("knn", "linear"):
        known = [read_result(path) for path in folder.rglob("transfer/**/result.json")]
        tested = {result.transfer["checkpoint"] for result in known if result.transfer["protocol"] == protocol}
        new = [str(run) for run in runs if str(run) not in tested]
        if new:
            sweep("finetune.py", f"checkpoint={','.join(new)}", f"transfer={protocol}", f"outputs={folder}")
    return collect(folder)[0]


def sweep(script: str, *words: str) -> None:
    done = subprocess.run([sys.executable, script, "-m", *words], cwd=HOME, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"{script} ended with exit code {done.returncode}; it says above why")


def pair_of(results: list[Result], first: np.ndarray, second: np.ndarray, planted: float = 0.0) -> list[Result]:
    """The runs of two seed sets as two objectives; the first scores `planted` more."""
    place = {
        (seed, name): i for seeds, name in ((first, "mae"), (second, "mae_again")) for i, seed in enumerate(seeds.tolist())
    }
    made = []
    for name, extra in (("mae", planted), ("mae_again", 0.0)):
        for result in results:
            if (result.seed, name) in place:
                metrics = {"accuracy": result.metrics["accuracy"] + extra}
                made.append(replace(result, objective=name, seed=place[result.seed, name], metrics=metrics))
    return made


def drawn(rng: np.random.Generator, results: list[Result], num_seeds: int, planted: float = 0.0) -> Pair:
    """Two sets of encoders, drawn without one in both."""
    order = rng.permutation(NUM_RUNS)
    return compare_pairs(pair_of(results, order[:num_seeds], order[num_seeds : 2 * num_seeds], planted))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="to keep the runs in; by default they are made anew")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results = make_runs((chosen.folder or Path(temporary)).resolve())
    claimed = 0
    for i, seeds in enumerate(np.arange(NUM_RUNS).reshape(PAIRS, 2, SEEDS)):
        both = pair_of(results, *seeds)
        (pair,) = compare_pairs(both)
        claimed += pair.different
        print(f"pair {i}: {100 * pair.difference:+.2f} points, p {pair.p:.2f}: {verdict(both)}")
    chance = binomtest(claimed, PAIRS, ALPHA, alternative="greater").pvalue
    print(f"A/A on {len(results)} real results: {claimed} of {PAIRS} pairs claimed different", end="")
    print(f" (so many or more by chance, at {ALPHA} each: {chance:.2f})")

    rng = np.random.default_rng(0)
    pairs = [drawn(rng, results, SEEDS) for _ in range(DRAWS)]
    print(
        f"A/A, {SEEDS} against {SEEDS} drawn from the same runs: {np.mean([pair.different for pair in pairs]):.3f} of {DRAWS}"
    )
    spread = float(np.sqrt(np.mean([pair.spread**2 for pair in pairs])))
    seeds = seeds_needed(POINTS / 100, spread)
    promised = power(seeds, POINTS / 100, spread)
    found = np.mean([drawn(rng, results, seeds, POINTS / 100).different for _ in range(DRAWS)])
    print(f"{POINTS} points planted at the measured spread of {100 * spread:.2f} points: {seeds} seeds, ", end="")
    print(f"promised {promised:.3f}, found {found:.3f} of {DRAWS}")


if __name__ == "__main__":
    sys.exit(until_stopped(main))
