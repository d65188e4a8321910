"""Benchmarks: both sides of a case do the same work, measured and counted as the table says."""

import sys
import time
from statistics import mean

import numpy as np
import pytest
import scipy
import torch
from counted_steps import facts_of

from benchmarks import growth, kernels, machine, overhead, run
from benchmarks.cases import startup
from benchmarks.cases.case import case_named
from benchmarks.gate import SideFailed
from benchmarks.record import RESULTS, bound, markdown, ratio, read_all, rows, write
from benchmarks.run import TRAINED
from models.attention import has_bf16


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


def test_memory_that_was_too_small_to_be_seen_bends_no_exponent():
    points = (10, 100, 1000, 10_000)
    found = [{"seconds": 1.0, "memory_bytes": max(growth.UNSEEN, 1e4 * n)} for n in points]
    assert found[1]["memory_bytes"] == found[0]["memory_bytes"] == growth.UNSEEN
    assert growth.judged("samples", points, found)["exponents"]["memory_bytes"] == pytest.approx((1.0, 0.0))
    nothing = [point | {"memory_bytes": growth.UNSEEN} for point in found]
    assert growth.judged("samples", points, nothing)["exponents"]["memory_bytes"] == (0.0, 0.0)


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


def test_an_objective_without_a_first_step_fails_the_measurement_of_start_up(monkeypatch, capsys):
    def seconds_of(objective):
        if objective == "mae":
            raise RuntimeError("no first step: error: deliberate")
        return 1.0, 2.0

    monkeypatch.setattr(run, "step_seconds", seconds_of)
    monkeypatch.setattr(run, "help_seconds", lambda: 0.5)
    chosen = run.argparse.Namespace(toy=True, rounds=1)
    with pytest.raises(SideFailed, match="first step: mae$"):
        run.startup(chosen, {})
    assert "first step of mae: no first step: error: deliberate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "is_all"),
    [
        ([], True),
        (["mlm", "--rounds", "9"], True),
        (["mlm", "--peer", "huggingface"], False),
        (["data", "--shards", "x.tar"], False),
        (["mlm", "--rounds", "1"], False),
        (["mlm", "--seconds", "0.1"], False),
        (["mlm", "--toy"], False),
    ],
)
def test_only_what_was_measured_whole_takes_a_records_place(monkeypatch, words, is_all):
    asked = []
    monkeypatch.setattr(run, "measure", lambda *arguments: asked.append(arguments[-1]) or 0)
    monkeypatch.setattr(machine, "described", lambda rates: {"cpu": "", "cores": 2, "threads": 2})
    monkeypatch.setattr(sys, "argv", ["run.py", *words])
    assert run.main() == 0
    assert (asked == [RESULTS]) == is_all


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
        (["mae", "--rounds", "0"], "--rounds and --seconds must be above 0, not 0 and 2"),
        (["mae", "--seconds", "nan"], "--rounds and --seconds must be above 0, not 5 and nan"),
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
