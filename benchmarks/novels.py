"""Which text objective is worth how much after ten CPU minutes on fifteen novels? Judged on sentences of another kind.

Every objective gets the same FLOPs (conf/experiment/novels.yaml) and five seeds. Each encoder is judged by a linear probe and
by fine-tuning on two tasks, and so are random initialisations with the same tokenizer; TF-IDF stands beside them. Half of a
task's sentences are its test split: the tenth that the files set apart cannot show differences of two points. Prints a table,
and what the training took. Finished parts are not repeated: the same command goes on where it stopped, and makes no seed
that stands whole in the records, benchmarks/results/novels.jsonl. Another recipe needs other records.

    python benchmarks/novels.py <novels.zip> <sentences.zip with mr/ and subj/> [--folder outputs/novels] [--seeds 0 1 2 3 4]
    python benchmarks/novels.py --table    # of what is there

Two processes with other seeds in the same folder share the work.
"""

import argparse
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.model_selection import train_test_split

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules.files import DAMAGE
from datamodules.tables import check_columns, read_table
from errors import BadInput
from reports.markdown import plain_table
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
# 1e-3 at a batch of 32: the usual 1e-4 is for wider models; and a tenth of the labels, or fine-tuning would be most of the cost
FINETUNE = ("transfer.base_lr=8e-3", "transfer.layer_decay=1", "label_fraction=0.1")

RECORDS = HOME / "benchmarks" / "results" / "novels.jsonl"
RECORDED = {  # of a result, and of what it holds; no paths
    "kind": None, "objective": None, "model": None, "data": None, "seed": None, "seconds": None,
    "budget_spent": ("samples", "flops"), "metrics": ("last_loss", "accuracy", "readout"),
    "transfer": ("protocol", "data", "label_fraction"),
}  # fmt: skip


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


def part_of(result: Result) -> tuple:
    """What a result is of: no part is made or counted twice."""
    made = result.transfer or {}
    return result.kind, result.objective, result.model, result.seed, made.get("protocol"), made.get("data")


def read_records(path: Path) -> list[Result]:
    """What earlier calls have made; none where there is no such file.

    Raises:
        BadInput: it is cut or holds something else.
    """
    try:
        return [Result(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"the records '{path}' cannot be read: {error}") from error


def with_recorded(results: Iterable[Result], path: Path) -> list[Result]:
    """Each part once, in an order that does not depend on when it was made."""
    parts = {part_of(result): result for result in (*read_records(path), *results)}
    return [parts[part] for part in sorted(parts, key=str)]


def write_records(results: list[Result], path: Path) -> None:
    """One line a result; they appear all or not at all."""
    lines = [json.dumps({name: cut(getattr(result, name), names) for name, names in RECORDED.items()}) for result in results]
    path.with_suffix(".part").write_text("".join(f"{line}\n" for line in lines))
    path.with_suffix(".part").replace(path)


def cut(value: Any, names: tuple[str, ...] | None) -> Any:
    """A dictionary with some of its entries, anything else as it is."""
    return {name: value[name] for name in names if name in value} if names and value else value


def is_whole(seed: int, records: list[Result]) -> bool:
    """Whether all that `run` makes of a seed stands in the records."""
    of_seed = [result for result in records if result.seed == seed]
    trained = {result.objective for result in of_seed if result.kind == "pretrain"}
    judged = Counter(result.transfer["protocol"] for result in of_seed if result.transfer)
    num_encoders = len(OBJECTIVES) + len(FIRST_OF_MODEL)
    wanted = {"linear": num_encoders, "finetune": num_encoders, "tfidf": 1}
    return trained == {*OBJECTIVES} and judged == {name: num * len(TASKS) for name, num in wanted.items()}


def tables(results: list[Result]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(accuracy in % by row, task and protocol; what it is above random weights of the same seed; what training took)."""
    accuracy, above = judged(results)
    spent = [
        (result.objective, result.model, result.budget_spent["samples"], result.seconds / 60, result.metrics["last_loss"])
        for result in results
        if result.kind == "pretrain"
    ]
    cost = pd.DataFrame(spent, columns=["objective", "model", "samples", "minutes", "last loss"])
    # what disturbs a clock only slows it, so the fastest seed
    how = {"samples": "mean", "minutes": "min", "last loss": "mean"}
    cost = cost.groupby(["objective", "model"], sort=False).agg(how).round(2)
    return over_seeds(accuracy), over_seeds(above), cost


def judged(results: list[Result]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(accuracy in %, what it is above random weights of the same seed), a line for each encoder, task, protocol and seed.

    Raises:
        BadInput: there are none.
    """
    found = []
    for result in results:
        if result.kind != "transfer":
            continue
        protocol = {"finetune": "fine-tuned"}.get(result.transfer["protocol"], "linear")
        if (share := result.transfer["label_fraction"]) < 1:
            protocol += f" @ {share:g}"
        is_tfidf = result.transfer["protocol"] == "tfidf"
        row = ("TF-IDF", "") if is_tfidf else (result.objective, result.model)
        found.append((*row, f"{result.transfer['data']} {protocol}", result.seed, 100 * result.metrics["accuracy"]))
    if not found:
        raise BadInput("nothing has been judged yet")
    accuracy = pd.DataFrame(found, columns=["objective", "model", "task", "seed", "accuracy"])
    random = accuracy[accuracy["objective"] == "random"].drop(columns="objective")
    above = accuracy.merge(random, on=["model", "task", "seed"], suffixes=("", "_random"))
    above["accuracy"] -= above.pop("accuracy_random")
    return accuracy, above[above["objective"] != "random"]


def over_seeds(judged: pd.DataFrame) -> pd.DataFrame:
    """A row for each objective and model, a column for each task."""
    return judged.pivot_table(index=["objective", "model"], columns="task", values="accuracy", aggfunc=spoken, sort=False)


def spoken(values: pd.Series) -> str:
    """Mean [95 % bootstrap interval] over n seeds."""
    low, high = bootstrap_interval(values.to_numpy()) if len(values) > 1 else (float("nan"),) * 2
    return f"{values.mean():.1f} [{low:.1f}, {high:.1f}] n={len(values)}"


def markdown(table: pd.DataFrame) -> str:
    """As it stands in the README."""
    plain = table.reset_index().fillna("")
    return plain_table(plain.columns, plain.astype(str).to_numpy().tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("archives", type=Path, nargs="*", help="the .zip of novels, and that of the sentences")
    parser.add_argument("--folder", type=Path, default=HOME / "outputs" / "novels")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--records", type=Path, default=RECORDS, help="by default benchmarks/results/novels.jsonl")
    parser.add_argument("--table", action="store_true", help="print what lies in the records and the folder, make nothing")
    given = parser.parse_args()
    if len(given.archives) != 2 and not given.table:
        parser.error("two archives are needed: the novels, and the sentences; or --table")
    for path in given.archives:
        if not path.exists():
            parser.error(f"there is no '{path}'")
    try:
        if not given.table:
            missing = [seed for seed in given.seeds if not is_whole(seed, read_records(given.records))]
            run(missing, given.folder.resolve(), *(path.resolve() for path in given.archives))
        results = with_recorded(results_in(given.folder), given.records)
        accuracy, above, cost = tables(results)
        if not given.table:
            write_records(results, given.records)
    except BadInput as error:
        parser.error(str(error))
    except subprocess.CalledProcessError as error:  # its own line says why
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
    print(markdown(accuracy), "Above random weights of the same seed:", markdown(above), markdown(cost), sep="\n\n")


if __name__ == "__main__":
    main()
