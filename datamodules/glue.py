"""GLUE (Wang et al. 2019): nine tasks of English sentences and pairs, from a local copy or the hub.

The labels of the real test sets are hidden: the development set is the test split here, and validation is carved from train.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from datamodules.huggingface import open_records
from datamodules.tables import Row, check_columns, read_table
from datamodules.text_classification import labelled
from datamodules.text_task import TextTask
from errors import BadInput, nearest
from ranges import Count, Seed, ShareBelow1

log = logging.getLogger(__name__)

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class Known:
    """Where a task's texts and labels are.

    Attributes:
        folder: in GLUE's layout.
        columns, label: of its .tsv files.
        hub_columns: on the hub, where labels are class numbers in a column "label".
        class_names: in the hub's order; empty for the regression.
        tsv_labels: as the .tsv files write the classes.
        header: of files that do not begin with one.
        dev: the file of the test split, and its name on the hub.
        selection: the metric.
    """

    folder: str
    columns: tuple[str, ...]
    label: str
    hub_columns: tuple[str, ...]
    class_names: tuple[str, ...] = ("0", "1")
    tsv_labels: tuple[str, ...] = ("0", "1")
    header: tuple[str, ...] | None = None
    dev: tuple[str, str] = ("dev", "validation")
    selection: str = "accuracy"


_entailment = ("entailment", "not_entailment")
_nli = ("entailment", "neutral", "contradiction")
_pair = ("sentence1", "sentence2")
_questions = ("question1", "question2")
KNOWN = {
    "cola": Known(
        "CoLA",
        ("sentence",),
        "label",
        ("sentence",),
        ("unacceptable", "acceptable"),
        header=("source", "label", "star", "sentence"),
        selection="matthews",
    ),
    "sst2": Known("SST-2", ("sentence",), "label", ("sentence",), ("negative", "positive")),
    "mrpc": Known("MRPC", ("#1 String", "#2 String"), "Quality", _pair, ("not_equivalent", "equivalent")),
    "stsb": Known("STS-B", _pair, "score", _pair, (), selection="spearman"),
    "qqp": Known("QQP", _questions, "is_duplicate", _questions, ("not_duplicate", "duplicate")),
    "mnli": Known(
        "MNLI", _pair, "gold_label", ("premise", "hypothesis"), _nli, _nli, dev=("dev_matched", "validation_matched")
    ),
    "qnli": Known("QNLI", ("question", "sentence"), "label", ("question", "sentence"), _entailment, _entailment),
    "rte": Known("RTE", _pair, "label", _pair, _entailment, _entailment),
    "wnli": Known("WNLI", _pair, "label", _pair, ("not_entailment", "entailment")),
}


class Glue(TextTask):
    """One task.

    Args:
        task: one of KNOWN.
        root: a folder in GLUE's layout (CoLA/train.tsv ...), or the task's own folder; None asks the hub.
    Other arguments as in `TextTask`.
    """

    def __init__(
        self,
        task: str,
        tokenizer: dict,
        root: str | None = None,
        max_length: Count = 128,
        batch_size: Count = 32,
        val_fraction: ShareBelow1 = 0.1,
        split_seed: Seed = 0,
        cache: str | None = None,
    ):
        if task not in KNOWN:
            raise BadInput(f"datamodule.task='{task}' is not a task of GLUE; {nearest(task, KNOWN)}")
        known, problems = KNOWN[task], Counter()
        if root:
            rows = _local(known, root, problems)
            columns, label, written = known.columns, known.label, known.tsv_labels
        else:
            rows = {
                split: list(open_records(HUB, task, there, cache))
                for split, there in (("train", "train"), ("test", known.dev[1]))
            }
            columns, label, written = known.hub_columns, "label", [str(i) for i in range(len(known.class_names))]
        regression = not known.class_names
        splits, _ = labelled(
            rows, list(columns), label, regression, task, problems, class_names=[] if regression else list(written)
        )
        for problem, count in problems.items():
            log.warning("'%s': %d %s", task, count, problem)
        self.problems = dict(problems)
        super().__init__(
            task,
            splits,
            list(known.class_names),
            tokenizer,
            max_length,
            batch_size,
            val_fraction,
            split_seed,
            known.selection,
            cache,
        )


def _local(known: Known, root: str, problems: Counter) -> dict[str, list[Row]]:
    folder = Path(root).expanduser()
    if (folder / known.folder).is_dir():
        folder = folder / known.folder
    rows = {}
    for split, file in (("train", "train"), ("test", known.dev[0])):
        path = folder / f"{file}.tsv"
        if not path.exists():
            raise BadInput(f"datamodule.root='{root}' has no {known.folder}/{file}.tsv")
        rows[split] = read_table(path.read_bytes(), ".tsv", problems, list(known.header) if known.header else None)
        check_columns(rows[split], [*known.columns, known.label], str(path))
    return rows
