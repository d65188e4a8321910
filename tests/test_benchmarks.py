"""Benchmarks: both sides of a case do the same work, measured and counted as the table says."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd
import pytest
import scipy
import torch
from conftest import ROOT
from counted_steps import facts_of
from scipy import stats

from benchmarks import growth, image_text, kernels, machine, novels, overhead, run
from benchmarks.cases import startup
from benchmarks.gate import SideFailed, SideProcess
from benchmarks.record import bound, markdown, ratio, read_all, rows, write
from benchmarks.run import TRAINED, case_named
from errors import BadInput
from models.attention import has_bf16
from reports.result import Result


@pytest.mark.parametrize("name", TRAINED)
def test_all_sides_of_a_case_train_as_many_weights(name):
    case = case_named(name)
    ours = facts_of(case.ours, case.toy, "fp32")
    for peer, entry in case.rivals().items():
        theirs = facts_of(entry.side, case.toy, "fp32")
        if "parameters" in ours:
            assert ours["sample_flops"] > 0
            exact = peer == "bare"
            assert theirs["parameters"] == pytest.approx(ours["parameters"], rel=0 if exact else 0.01), peer


def test_exponents_are_scipys():
    x = np.array([8, 16, 32, 64, 128])
    y = 3.0 * x**1.5 * np.array([1.1, 0.9, 1.0, 1.2, 0.95])
    expected = scipy.stats.linregress(np.log(x), np.log(y))
    assert growth.exponent(x, y) == pytest.approx((expected.slope, expected.stderr))
    assert growth.exponent([10, 1000], [2, 200]) == pytest.approx((1.0, 0.0))


@pytest.mark.parametrize(("time", "verdict"), [(1.0, "within"), (2.0, "ABOVE")])
def test_growth_is_judged_by_the_counted_flops(time, verdict):
    points = (8, 16, 32, 64)
    found = [{"seconds": 1e-3 * n**time, "memory_bytes": 1e6 * n, "flops": 5.0 * n} for n in points]
    record = growth.judged("batch", points, found)
    shown = growth.lines("batch", record)
    assert verdict in shown[0]
    assert "n^1.00" in shown[0]
    assert "within" in shown[1]


def test_the_order_of_many_samples_is_measured(tmp_path):
    assert facts_of(growth.batches_of_numbers, 1000) == {}
    points = [10, 100]
    found = [{"first_seconds": 1.0 * n, "seconds": 1.0, "memory_bytes": 8.0 * n} for n in points]
    record = growth.judged("samples", points, found)
    assert record["limits"] == {"seconds": 0.0, "memory_bytes": 1.0, "first_seconds": 1.0}
    assert all("within" in line for line in growth.lines("samples", record))
    growth.plot({"samples": record}, tmp_path / "growth.svg")
    assert (tmp_path / "growth.svg").stat().st_size > 1000


RECORD = {
    "case": "mlm", "work": "mlm", "precision": "fp32", "unit": "tokens", "units_a_step": 100, "step_flops": 2e9,
    "machine": {"matmul_flops": {"fp32": 1e9, "bf16": 1e10}, "copy_bytes": 2.8e9},
    "parameters": {"ours": 1e8}, "peak_memory_bytes": {"ours": 1e9, "hf": 2e9, "bare": 1e9},
    "rates": {"ours": [30.0, 33.0, 60.0], "hf": [20.0, 11.0, 20.0], "bare": [30.0, 33.0, 60.0]},
    "peers": {"hf": {"called": "HF", "target": 3.5}, "bare": {"called": "loop", "target": 0.97}},
}  # fmt: skip


def test_ratios_are_taken_within_rounds():
    assert ratio(RECORD["rates"]["ours"], RECORD["rates"]["hf"]) == (3.0, 1.5, 3.0)


def test_a_steady_drift_favours_no_side_of_a_comparison():
    rivals = ["huggingface", "lightly", "bare"]
    rounds = [run.turns(rivals, backwards) for backwards in (False, True)]
    for order in rounds:
        half = (len(order) - 1) / 2
        assert all(mean(place for place, side in enumerate(order) if side == near) == half for near in ("ours", "bare"))
    both = [side for order in rounds for side in order]
    assert len({mean(place for place, side in enumerate(both) if side == rival) for rival in ("ours", *rivals)}) == 1
    assert run.turns(["webdataset"], backwards=False) == ["ours", "webdataset", "ours"]


@pytest.mark.parametrize(("name", "precision"), [("mlm", "fp32"), ("clip", "bf16")])
def test_kernels_share_the_time_of_a_step(name, precision):
    found = kernels.measured(case_named(name).toy, precision, num_steps=1)
    shares = {kind: found[kind] for kind in (*kernels.KINDS, "the rest")}
    assert sum(shares.values()) == pytest.approx(1)
    without = {"convolutions", "softmax"} if name == "mlm" else set()  # fp32's attention is fused
    assert {kind for kind, share in shares.items() if share == 0} == without
    assert found["bound"] > 0
    if precision == "fp32" or has_bf16("cpu"):  # else products in bf16 take ways of which the measured one is not the fastest
        assert found["bound"] < found["step"]
    named = {"aten::bmm": "attention", "aten::addmm": "matrix products", "aten::copy_": "copies and conversions"}
    assert {kernel: kernels.kind_of(kernel) for kernel in named} == named


def test_overhead_is_what_the_parts_leave_over():
    backward, began = torch.Tensor.backward, time.perf_counter()
    facts = facts_of(overhead.ours_in_parts, case_named("mlm").toy, "fp32")
    assert torch.Tensor.backward is backward
    parts = [facts[part] for part in overhead.PARTS]
    assert all(seconds > 0 for seconds in parts)
    assert sum(parts) < time.perf_counter() - began


def test_a_missed_target_stands_beside_what_the_machine_allows():
    missed, met = rows(RECORD)
    assert "missed" in missed[5]
    assert "missed" not in met[5]
    assert (missed[6], met[6]) == ("1.00 / 2.00 GB", "1.00 / 1.00 GB")
    more = RECORD | {"peak_memory_bytes": {"ours": 3e9, "hf": 2e9, "bare": 1e9}}
    assert [row[6].endswith("more") for row in rows(more)] == [True, False]
    # 2 s of products, 1 s for seven passes over 1e8 weights of 4 bytes: 100 tokens in 3 s
    assert bound(RECORD) == pytest.approx(100 / 3)
    assert missed[7] == "33.3 (99% reached)"
    assert met[7] == ""


def test_the_table_is_made_of_what_was_written(tmp_path):
    seconds = {
        "train.py --help": [1.0, 3.0, 1.5],
        "first step of a": [9.0],
        "first step of b": [12.0],
        "first step of c": [11.0],
    }
    startup = {"case": "startup", "seconds": seconds, "targets": dict.fromkeys(seconds, 10.0) | {"train.py --help": 2.0}}
    startup["done"] = {"a": 14.0, "b": 13.0, "c": 13.0}
    for record in (RECORD, startup):
        write(record, tmp_path)
    (tmp_path / "gpu.json").write_text("{}")
    assert {path.name for path in tmp_path.iterdir()} == {"mlm-fp32.json", "startup.json", "gpu.json"}
    table = markdown(read_all(tmp_path))
    assert len(table.splitlines()) == 2 + 2 + 3
    assert "| startup: train.py --help | 1.5 s |  |  |  | <= 2 s |" in table
    assert "| startup: to the first step, 3 objectives | median 11.0 s, b 12.0 s |  |  |  | <= 10 s, missed by 2 |" in table
    assert "| startup: that step itself besides | median 2.0 s, a 5.0 s |" in table


def three_steps_and_a_fault(gate):
    gate.describe(parameters=7)
    for number in range(3):
        gate.step(number=number)
    raise RuntimeError("deliberate")


def test_a_side_takes_its_turns_in_its_own_process(capfd):
    process = SideProcess("side", three_steps_and_a_fault, ())
    found = process.run(2)
    assert (found["parameters"], found["number"]) == (7, 1)
    assert found["seconds"] > 0
    assert found["peak_memory_bytes"] >= found["started_bytes"] > 0
    assert process.run(1)["number"] == 2
    with pytest.raises(SideFailed, match="side ended with exit code 1"):
        process.run(1)
    assert "deliberate" in capfd.readouterr().err


def one_step(gate):
    gate.step(method=multiprocessing.get_start_method())


def test_the_workers_of_a_side_start_as_those_of_a_command():
    process = SideProcess("side", one_step, ())
    assert process.run(1)["method"] == multiprocessing.get_start_method() == process.told["method"]
    process.stop()


class Prefetched:
    """A side that has 20 steps ready and needs 10 ms for each one more."""

    done = 0

    def run(self, num_steps):
        before, self.done = self.done, self.done + num_steps
        return {"seconds": 1e-6 * num_steps + 0.01 * (max(0, self.done - 20) - max(0, before - 20))}


def test_what_lies_ready_does_not_decide_how_many_steps_are_measured():
    assert 350 <= run.steps_in(4.0, Prefetched()) <= 450


def test_a_command_without_a_first_step_says_why():
    with pytest.raises(RuntimeError, match="no first step: error: there is no setting 'nonsense'"):
        startup.step_seconds("mlm", ["nonsense=1"])


def test_the_machine_is_described():
    known = machine.described(rates=False)
    assert known["cores"] >= 1
    assert known["cpu"]
    assert machine.matmul_flops(torch.float32, side=64) > 1e6
    assert machine.copy_bytes(numbers=1000) > 1e3


@pytest.mark.parametrize(("seconds", "side"), [(10.0, machine.FEW_SIDE), (1e-4, machine.SIDE)])
def test_a_kind_of_product_that_is_slow_here_is_not_waited_for(monkeypatch, seconds, side):
    monkeypatch.setattr(machine, "_fastest", lambda work: seconds)
    assert machine.matmul_flops(torch.float32) == 2 * side**3 / seconds


def test_a_mistyped_case_is_named_with_its_neighbours(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", "mlmm"])
    with pytest.raises(SystemExit):
        run.main()
    assert "did you mean mlm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["mae", "--peer", "hugingface"], "did you mean huggingface?"),
        (["--table", "--results", "EMPTY"], "there are no records in"),
        (["--table", "--results", "CUT"], "is cut or damaged"),
    ],
)
def test_what_cannot_be_compared_or_read_is_answered_in_one_line(monkeypatch, capsys, tmp_path, words, answer):
    folders = {"EMPTY": tmp_path / "empty", "CUT": tmp_path / "cut"}
    for folder in folders.values():
        folder.mkdir()
    (folders["CUT"] / "mlm-bf16.json").write_text('{"case": "ml')
    monkeypatch.setattr(sys, "argv", ["run.py", *(str(folders.get(word, word)) for word in words)])
    with pytest.raises(SystemExit) as ending:
        run.main()
    assert ending.value.code == 2
    assert answer in capsys.readouterr().err.splitlines()[-1]


def test_neighbours_of_words_are_those_of_a_brute_force_search():
    from conftest import PIECES, text_spec

    from benchmarks.word_neighbours import neighbours
    from models.word_vectors import WordVectors

    torch.manual_seed(0)
    encoder = WordVectors(text_spec(), width=16)
    names = encoder.vocabulary.tokenizer.convert_ids_to_tokens(list(range(len(encoder.vocabulary.tokenizer))))
    whole = [i for i in PIECES if names[i].isalpha()]
    vectors = encoder.net.weight.detach().double().numpy()
    word = whole[3]
    cosines = {i: 1 - scipy.spatial.distance.cosine(vectors[word], vectors[i]) for i in whole if i != word}
    expected = sorted(cosines, key=cosines.get, reverse=True)[:5]
    ((found, near),) = neighbours(encoder, [names[word]], 5)
    assert found == names[word]
    assert [name for name, _ in near] == [names[i] for i in expected]
    assert [cosine for _, cosine in near] == pytest.approx([cosines[i] for i in expected], abs=1e-5)


def test_half_of_the_sentences_are_kept_for_the_test(tmp_path):
    with zipfile.ZipFile(tmp_path / "sentences.zip", "w") as archive:
        for task in novels.TASKS:
            for name, numbers in {"train": range(80), "val": range(80, 90), "test": range(89, 100)}.items():
                rows = "".join(f'{i % 2}\t{task} "sentence" {i}\n' for i in numbers)
                archive.writestr(f"{task}/{name}.tsv", "label\ttext\n" + rows)
    with pytest.raises(BadInput, match="no item named 'cr/train.tsv'"):
        novels.sentences_of("cr", tmp_path / "sentences.zip")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "sentences.zip").read_bytes()[:-100])
    with pytest.raises(BadInput, match="cut.zip' cannot be read as a .zip of labelled sentences: File is not a zip file"):
        novels.sentences_of("mr", tmp_path / "cut.zip")
    folder = novels.deal(tmp_path / "sentences.zip", tmp_path / "dealt")
    for task in novels.TASKS:
        splits = {name: pd.read_parquet(folder / task / f"{name}.parquet") for name in ("train", "val", "test")}
        assert {name: len(split) for name, split in splits.items()} == {"train": 40, "val": 10, "test": 50}
        assert {name: (split["label"] == "0").sum() for name, split in splits.items()} == {"train": 20, "val": 5, "test": 25}
        assert {*pd.concat(splits.values())["text"]} == {f'{task} "sentence" {i}' for i in range(100)}


def test_the_table_of_the_novels_takes_differences_within_seeds():
    transfer = {"protocol": "linear", "data": "mr", "checkpoint": "none", "label_fraction": 1.0, "seed": 0}
    accuracy = {
        ("mlm", "bert_mini"): (0.6, 0.7, 0.65),
        ("random", "bert_mini"): (0.55, 0.68, 0.61),
        ("random", "t5_mini"): (0.5,) * 3,
    }
    results = [
        Result("transfer", *names, "text_files", seed, metrics={"accuracy": value}, transfer=transfer)
        for names, values in accuracy.items()
        for seed, value in enumerate(values)
    ]
    spent = {"budget_spent": {"samples": 10}, "metrics": {"last_loss": 5.0}}
    results += [Result("pretrain", "mlm", "bert_mini", "text_files", seed, seconds=60.0, **spent) for seed in range(3)]
    judged, above, cost = novels.tables(results)
    assert judged.loc[("random", "t5_mini"), "mr linear"] == "50.0 [50.0, 50.0] n=3"
    half = stats.t.ppf(0.975, 2) * np.std([5, 2, 4], ddof=1) / 3**0.5
    assert above.index.to_list() == [("mlm", "bert_mini")]
    assert above.iloc[0, 0] == f"{11 / 3:.1f} [{11 / 3 - half:.1f}, {11 / 3 + half:.1f}] n=3"
    assert cost.loc[("mlm", "bert_mini"), "minutes"] == 1


def test_seeds_that_stand_whole_in_the_records_are_not_made_again(tmp_path):
    def transfer(protocol: str, objective: str, model: str, seed: int) -> list[Result]:
        made = {"protocol": protocol, "label_fraction": 1.0}
        return [
            Result("transfer", objective, model, "text_files", seed, transfer=made | {"data": task}) for task in novels.TASKS
        ]

    def made(seed: int) -> list[Result]:
        models = {objective: words[0].removeprefix("model=") for objective, words in novels.OBJECTIVES.items()}
        encoders = [*models.items(), *(("random", model) for model in novels.FIRST_OF_MODEL)]
        judged = [transfer(protocol, *names, seed) for protocol in ("linear", "finetune") for names in encoders]
        trained = [Result("pretrain", *names, "text_files", seed, versions={"torch": "2"}) for names in models.items()]
        return trained + sum(judged, transfer("tfidf", "random", "modernbert_mini", seed))

    path, parts = tmp_path / "novels.jsonl", [*made(3), *made(1)[:-1]]
    assert novels.read_records(path) == []
    novels.write_records(novels.with_recorded(parts[::-1], path), path)
    before = path.read_text()
    assert len(before.splitlines()) == len(parts)
    assert "torch" not in before
    assert "/home/me" not in before
    again = novels.with_recorded(parts[5:9], path)
    novels.write_records(again, path)
    assert path.read_text() == before
    assert [novels.is_whole(seed, again) for seed in (1, 2, 3)] == [False, False, True]
    path.write_text(before[:-20])
    with pytest.raises(BadInput, match="novels.jsonl' cannot be read: "):
        novels.read_records(path)


def test_the_table_beside_open_clip_has_paired_differences():
    ours, theirs = (0.3, 0.4, 0.5), (0.28, 0.35, 0.47)
    rest = dict.fromkeys(image_text.SHOWN, 1.0) | {"parameters": 2e6, "chance_accuracy": 0.25}
    scores = zip(image_text.SIDES, (ours, theirs), strict=True)
    found = {side: [rest | {"accuracy": value} for value in values] for side, values in scores}
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in image_text.table(found).splitlines()]
    assert {len(line) for line in lines} == {len(image_text.SHOWN) + 1}
    half = stats.t.ppf(0.975, 2) * np.std([2, 5, 3], ddof=1) / 3**0.5
    assert [line[0] for line in lines[2:]] == ["ours, 2.0 M", "open_clip, 2.0 M", "difference", "chance"]
    assert [line[-1] for line in lines[2:]] == [
        "40.0 ± 10.0", "36.7 ± 9.6", f"+3.3 [{10 / 3 - half:.1f}, {10 / 3 + half:.1f}]", "25.0",
    ]  # fmt: skip


@pytest.mark.parametrize("script", ["run", *(pytest.param(name, marks=pytest.mark.long) for name in ("overhead", "growth"))])
def test_ctrl_c_is_answered_in_one_line_and_leaves_no_process(script):
    words = ["batch"] if script == "growth" else ["mlm"]
    program = [sys.executable, f"benchmarks/{script}.py", *words, "--toy"]
    process = subprocess.Popen(
        program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: measures(process.pid))
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all of them
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].strip() == "stopped"
    assert "Traceback" not in said
    wait_for(lambda: not alive(process.pid))


LOADER = """
from torch.utils.data import DataLoader

from benchmarks.gate import SideProcess


def side(gate):
    for _ in DataLoader(range(10**6), num_workers=1, multiprocessing_context="spawn"):
        gate.step()


if __name__ == "__main__":
    process = SideProcess("loader", side, ())
    process.run(3)
    process.stop()
    print(process.process.exitcode)
"""


@pytest.mark.long
def test_a_side_ends_its_loaders_workers_and_leaves_nothing_shared(tmp_path):
    (tmp_path / "loader.py").write_text(LOADER)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, tmp_path / "loader.py"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "0\n"
    assert done.stderr == ""  # where Python would name what is left


def measures(pid):
    """Whether a process has begun to start others that measure; what it imports may start some too, before it can answer."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if b"multiprocessing" in Path(f"/proc/{child}/cmdline").read_bytes():
                return True
    return False


def wait_for(what, seconds=60):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(group):
    """Whether a process group still has a member."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
