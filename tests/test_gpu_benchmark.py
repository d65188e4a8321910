"""The benchmark on a GPU, as far as a CPU can tell: cases at toy size, what it counts, its records and tables."""

import json
import sys
import time
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from counted_steps import facts_of

from benchmarks import gpu, gpu_kernels, gpu_power, sides
from benchmarks.gpu import CASES
from benchmarks.works import Work


@pytest.mark.parametrize("name", CASES)
def test_the_gpu_cases_run_at_toy_size(name):
    toy = CASES[name].toy
    own, plain = (facts_of(side, toy, "fp32", "cpu", False) for side in (sides.ours, sides.bare))
    assert own["parameters"] == plain["parameters"]
    assert own["sample_flops"] > 0


def test_the_gpu_script_says_where_there_is_no_gpu(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_utilisation_is_flops_a_second_over_the_peak():
    work = Work("mlm", "bert_mini", batch=4, length=16, vocabulary=64)
    # 32,000 tokens a second are 2,000 samples a second
    assert gpu.utilisation(work, 32_000, sample_flops=1e9, peak=4e12) == pytest.approx(0.5)
    assert gpu.utilisation(work, 32_000, sample_flops=1e9, peak=None) is None


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_sm90_tst_192x192_64x4_2x1_v_bz_coopB_TNN", "matrix products"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", "matrix products"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_64x64x64", "attention"),
        ("_attend_backward", "attention"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "convolutions"),
        ("_softmax_row", "logits"),
        ("_gelu_backward", "activation"),
        ("triton_poi_fused_gelu_view_8", "fused by the compiler"),
        ("Memcpy HtoD (Pinned -> Device)", "from the host"),
        ("void at::native::reduce_kernel<128, 4>", "the rest"),
    ],
)
def test_kernels_of_a_gpu_are_told_apart(kernel, kind):
    assert gpu_kernels.kind_of(kernel) == kind


def test_kernels_that_run_side_by_side_leave_the_gpu_idle_only_between_them():
    # of two steps: 30 us with a copy beside the last 10 and 5 more, then nothing for 15, then 50
    found = gpu_kernels.in_a_row([(150.0, 200.0), (100.0, 130.0), (120.0, 135.0)], steps=2)
    assert found == {"kernels": pytest.approx(47.5e-6), "idle": pytest.approx(7.5e-6)}


def test_a_step_alone_and_some_in_a_row_are_profiled(monkeypatch):
    class Profile:
        def __init__(self, activities):
            self.steps = []
            profiles.append(self)

        def start(self):
            running.append(self)

        def stop(self):
            running.remove(self)

        def events(self):
            kind = torch.autograd.DeviceType.CUDA
            spans = [SimpleNamespace(start=100.0 * step, end=100.0 * step + 60, elapsed_us=lambda: 60.0) for step in self.steps]
            return [SimpleNamespace(device_type=kind, name="nvjet", time_range=span) for span in spans]

    profiles, running, told = [], [], []
    monkeypatch.setattr(gpu_kernels, "profile", Profile)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    gate = gpu_kernels.Profiled(SimpleNamespace(describe=None, step=lambda **facts: told.append(facts)))
    for step in range(1, gpu.WARM + 3):
        for profile in running:
            profile.steps.append(step)
        gate.step()
    assert [profile.steps for profile in profiles] == [[gpu_kernels.ALONE], list(range(gpu_kernels.ALONE + 1, gpu.WARM + 1))]
    assert told[gpu.WARM] == told[-1]  # what is timed later carries the same facts
    assert told[-1]["kernels"] == dict.fromkeys(gpu_kernels.KINDS, 0.0) | {"matrix products": pytest.approx(60e-6)}
    between = 40e-6 * (gpu_kernels.ROW - 1) / gpu_kernels.ROW
    assert told[-1]["row"] == {"kernels": pytest.approx(60e-6), "idle": pytest.approx(between)}


@pytest.mark.parametrize(
    "lines", ["1500, 1980, 690.5, 700\n1700, 1980, 650, 700\n1600, 1980, 701, 700\n18", "[N/A], 3, 4, 5\n"]
)
def test_clock_and_power_are_what_nvidia_smi_says_while_a_gpu_works(lines, monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nimport sys, time\nprint({lines!r}, end='', flush=True)\ntime.sleep(60)\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with gpu_power.watched("GPU-1") as power:
        time.sleep(1.5)  # until it has written
        assert power == {}
    medians = {"clock": 1600.0, "highest_clock": 1980.0, "power": 690.5, "highest_power": 700.0}
    assert power == (medians if lines.startswith("1500") else {})
    monkeypatch.setenv("PATH", "")
    with gpu_power.watched("GPU-1") as power:
        pass
    assert power == {}


def test_lasting_products_are_counted_in_the_second_half(monkeypatch):
    monkeypatch.setattr(gpu_kernels.time, "perf_counter", count().__next__)  # a second passes at each look
    # after 1, 2 and 3 of four seconds there is time for eight more, and the last look comes at the fifth
    assert gpu_kernels.lasting_matmul_flops(side=16, seconds=8.0, device="cpu") == 2 * 16**3 * 24 / 5


def test_gpu_records_of_another_day_are_dropped_and_both_tables_printed(monkeypatch, tmp_path, capsys):
    known = {"device": "a card", "date": "2026-11-27", "machine": {"versions": {"torch": "2.11.0"}}}
    kernels = dict.fromkeys(gpu_kernels.KINDS, 0.125)
    side = {"rate": 500.0, "mfu": 0.25, "peak_memory_bytes": 2e9, "kernels": kernels, "sample_flops": 1e9, "parameters": 1e8}
    row = {
        "row": {"kernels": 0.125, "idle": 0.0625},
        "power": {"clock": 1500, "highest_clock": 1980, "power": 690.4, "highest_power": 700},
    }
    record = {"work": "mae", "unit": "images", "units_a_step": 100, "samples_a_step": 100, "mfu_wanted": 0.5}
    records = {
        name: record | {"sides": {"ours": side, "bare": side | more}} for name, more in (("mae", {}), ("mae_vit_b", row))
    }
    rates = {"matmul_flops": {"bf16": 1e12}, "lasting_matmul_flops": 8e11, "copy_bytes": 1e11}
    (tmp_path / "gpu.json").write_text(json.dumps(known | {"gpu": records, "rates": rates}))
    assert gpu.kept_records(tmp_path / "gpu.json", known) == records
    assert gpu.kept_records(tmp_path / "gpu.json", known | {"date": "2026-11-28"}) == {}
    assert gpu.kept_records(tmp_path / "nothing.json", known) == {}
    (tmp_path / "cut.json").write_text('{"device": "a ca')
    assert gpu.kept_records(tmp_path / "cut.json", known) == {}
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["gpu.py", "--table"])
    assert gpu.main() == 0
    # 100 images of 10^9 FLOPs at 10^12 a second, and 28 bytes for each of 10^8 weights at 10^11 a second
    kernel_time = f"{125.0 * len(gpu_kernels.KINDS):.1f} ms"
    printed = capsys.readouterr().out
    assert f"| mae | 200.0 ms | {kernel_time} | 128.0 ms | {1 / len(gpu_kernels.KINDS):.1%} |" in printed
    assert "| mae_vit_b | 200.0 ms | 125.0 ms | 62.5 ms | 1,500 of 1,980 MHz | 690 of 700 W |" in printed
    assert "matrix products 1 TFLOP/s, 1 for longer" in printed
    (tmp_path / "gpu.json").write_text('{"device": "a ca')
    with pytest.raises(SystemExit):
        gpu.main()
    assert "cannot be read: Unterminated string" in capsys.readouterr().err
