"""Which text objective is worth how much after ten CPU minutes on fifteen novels? Judged on sentences of another kind.

Every objective gets the same FLOPs (conf/experiment/novels.yaml) and five seeds. Each encoder is judged by a linear probe and
by fine-tuning on two tasks, and so are random initialisations with the same tokenizer; TF-IDF stands beside them. Half of a
task's sentences are its test split: the tenth that the files set apart cannot show differences of two points. Prints a table,
and what the training took. Finished parts are not repeated: the same command goes on where it stopped.

    python benchmarks/novels.py <novels.zip> <sentences.zip with mr/ and subj/> [--folder outputs/novels] [--seeds 0 1 2 3 4]

Two processes with other seeds in the same folder share the work.
"""

import argparse
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pandas as pd
from sklearn.model_selection import train_test_split

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules.files import DAMAGE
from datamodules.tables import check_columns, read_table
from errors import BadInput
from reports.result import Result, read_result
from reports.statistics import bootstrap_interval

HOME = Path(__file__).parents[1]
OBJECTIVES = {  # the words that each is trained with
    "mlm": ("model=modernbert_mini", "objective.mask_ratio=0.3"),
    "causal_lm": ("model=llama_mini",),
    "span": ("model=modernbert_mini", "objective.mask_ratio=0.3"),
    "rtd": ("model=modernbert_mini",),
    "prefix_lm": ("model=llama_mini",),
    "span_corruption": ("model=t5_mini",),
}
FIRST_OF_MODEL = {"modernbert_mini": "mlm", "llama_mini": "causal_lm", "t5_mini": "span_corruption"}  # lends its tokenizer
TASKS = ("mr", "subj")
FINETUNE = ("transfer.base_lr=8e-3", "transfer.layer_decay=1")  # 1e-3 at a batch of 32: the usual 1e-4 is for wider models


def command(script: str, *words: str) -> None:
    subprocess.run([sys.executable, script, *words], cwd=HOME, check=True)


def pretrain(objective: str, seed: int, folder: Path, novels: Path) -> None:
    run = folder / f"{objective}_{seed}"
    if not (run / "result.json").exists():
        common = ("experiment=novels", f"datamodule.files={novels}", "monitor.pictures=600", "resume=auto")
        command("train.py", *common, f"objective={objective}", f"seed={seed}", *OBJECTIVES[objective], f"hydra.run.dir={run}")


def deal(sentences: Path, folder: Path) -> Path:
    """The folder of the tasks as they are judged: sentences of all splits, dealt out to test (1/2), val (1/10) and train."""
    for task in TASKS:
        rows = sentences_of(task, sentences)
        rest, test = train_test_split(rows, test_size=0.5, random_state=0, stratify=rows["label"])
        train, val = train_test_split(rest, test_size=0.2, random_state=0, stratify=rest["label"])
        (folder / task).mkdir(parents=True, exist_ok=True)
        for name, split in {"train": train, "val": val, "test": test}.items():
            part = folder / task / f"{name}.{os.getpid()}"
            split.to_parquet(part, index=False)
            part.rename(folder / task / f"{name}.parquet")  # whole for another process that reads it meanwhile
    return folder


def sentences_of(task: str, archive: Path) -> pd.DataFrame:
    """The columns "text" and "label" of all splits of a task, each text once.

    Raises:
        BadInput: it is no .zip, damaged, or does not hold the task.
    """
    try:
        with zipfile.ZipFile(archive) as files:
            tables = [read_table(files.read(f"{task}/{name}.tsv"), ".tsv", Counter()) for name in ("train", "val", "test")]
    except (KeyError, *DAMAGE) as error:
        raise BadInput(f"'{archive}' cannot be read as a .zip of labelled sentences: {' '.join(str(error).split())}") from error
    rows = [row for table in tables for row in table]
    check_columns(rows, ["text", "label"], f"{task} in {archive}")
    return pd.DataFrame(rows).drop_duplicates("text")


def judge(protocol: str, checkpoint: Path | None, folder: Path, sentences: Path, seed: int, *words: str) -> None:
    """One protocol on each task, what is missing."""
    for task in TASKS:
        run = folder / f"{protocol}_{task}"
        if not (run / "result.json").exists():
            command(
                "finetune.py", f"checkpoint={checkpoint or 'none'}", f"transfer={protocol}", "datamodule=text_classification",
                f"datamodule.root={sentences}", f"datamodule.task={task}", f"seed={seed}", f"hydra.run.dir={run}", *words,
            )  # fmt: skip


def judge_seed(protocol: str, seed: int, folder: Path, sentences: Path, *words: str) -> None:
    for objective in OBJECTIVES:
        run = folder / f"{objective}_{seed}"
        judge(protocol, run, run / "transfer", sentences, seed, *words)
    for model, objective in FIRST_OF_MODEL.items():
        tokenizer = f"datamodule.tokenizer.path={folder / f'{objective}_{seed}'}"
        judge(protocol, None, folder / f"random_{model}_{seed}", sentences, seed, f"model={model}", tokenizer, *words)


def run(seeds: list[int], folder: Path, novels: Path, sentences: Path) -> None:
    """Seed by seed: the table of whatever is there can be printed at any time."""
    sentences = deal(sentences, folder / "sentences") if seeds else sentences
    for seed in seeds:
        for objective in OBJECTIVES:
            pretrain(objective, seed, folder, novels)
        judge("tfidf", None, folder / f"tfidf_{seed}", sentences, seed)
        judge_seed("linear", seed, folder, sentences)
        judge_seed("finetune", seed, folder, sentences, *FINETUNE)


def results_in(folder: Path) -> list[Result]:
    """Of the finished trainings and tests."""
    return [read_result(path) for path in sorted(folder.rglob("result.json"))]


def tables(results: list[Result]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(accuracy in % by row, task and protocol; what it is above random weights of the same seed; what training took)."""
    if not any(result.kind == "transfer" for result in results):
        raise BadInput("nothing has been judged yet")
    judged, spent = [], []
    for result in results:
        if result.kind == "pretrain":
            minutes, loss = result.seconds / 60, result.metrics["last_loss"]
            spent.append((result.objective, result.model, result.budget_spent["samples"], minutes, loss))
        else:
            protocol = {"finetune": "fine-tuned"}.get(result.transfer["protocol"], "linear")
            objective = "TF-IDF" if result.transfer["protocol"] == "tfidf" else result.objective
            task = f"{result.transfer['data']} {protocol}"
            judged.append((objective, result.model, task, result.seed, 100 * result.metrics["accuracy"]))
    judged = pd.DataFrame(judged, columns=["objective", "model", "task", "seed", "accuracy"])
    random = judged[judged["objective"] == "random"].drop(columns="objective")
    above = judged.merge(random, on=["model", "task", "seed"], suffixes=("", "_random"))
    above["accuracy"] -= above.pop("accuracy_random")
    cost = pd.DataFrame(spent, columns=["objective", "model", "samples", "minutes", "last loss"])
    cost = cost.groupby(["objective", "model"], sort=False).mean().round(2)
    return over_seeds(judged), over_seeds(above[above["objective"] != "random"]), cost


def over_seeds(judged: pd.DataFrame) -> pd.DataFrame:
    """A row for each objective and model, a column for each task."""
    return judged.pivot_table(index=["objective", "model"], columns="task", values="accuracy", aggfunc=spoken, sort=False)


def spoken(values: pd.Series) -> str:
    """Mean [95 % bootstrap interval] over n seeds."""
    low, high = bootstrap_interval(values.to_numpy()) if len(values) > 1 else (float("nan"),) * 2
    return f"{values.mean():.1f} [{low:.1f}, {high:.1f}] n={len(values)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("novels", type=Path)
    parser.add_argument("sentences", type=Path)
    parser.add_argument("--folder", type=Path, default=HOME / "outputs" / "novels")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4], help="none: only the table of what is there")
    given = parser.parse_args()
    for path in (given.novels, given.sentences) if given.seeds else ():
        if not path.exists():
            parser.error(f"there is no '{path}'")
    try:
        run(given.seeds, given.folder.resolve(), given.novels.resolve(), given.sentences.resolve())
        accuracy, above, cost = tables(results_in(given.folder))
    except BadInput as error:
        parser.error(str(error))
    except subprocess.CalledProcessError as error:  # its own line says why
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
    print(
        accuracy.to_string(na_rep=""),
        f"above random weights of the same seed\n{above.to_string(na_rep='')}",
        cost.to_string(),
        sep="\n\n",
    )


if __name__ == "__main__":
    main()
