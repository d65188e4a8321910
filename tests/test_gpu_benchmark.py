"""The benchmark on a GPU, as far as a CPU can tell: cases at toy size, what it counts, its records and tables."""

import json

import pytest
import torch
from counted_steps import facts_of

from benchmarks import gpu, gpu_kernels, sides
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
        ("triton_poi_fused_gelu_view_8", "fused by the compiler"),
        ("Memcpy HtoD (Pinned -> Device)", "from the host"),
        ("void at::native::reduce_kernel<128, 4>", "the rest"),
    ],
)
def test_kernels_of_a_gpu_are_told_apart(kernel, kind):
    assert gpu_kernels.kind_of(kernel) == kind


def test_gpu_records_of_another_day_are_dropped_and_both_tables_printed(monkeypatch, tmp_path, capsys):
    known = {"device": "a card", "date": "2026-11-27", "machine": {"versions": {"torch": "2.11.0"}}}
    kernels = dict.fromkeys(gpu_kernels.KINDS, 0.125)
    side = {"rate": 500.0, "mfu": 0.25, "peak_memory_bytes": 2e9, "kernels": kernels, "sample_flops": 1e9, "parameters": 1e8}
    record = {"work": "mae", "unit": "images", "units_a_step": 100, "samples_a_step": 100, "mfu_wanted": 0.5}
    records = {"mae": record | {"sides": {"ours": side, "bare": side}}}
    rates = {"matmul_flops": {"bf16": 1e12}, "copy_bytes": 1e11}
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
    assert "| mae | 200.0 ms | 1000.0 ms | 128.0 ms | 12.5% |" in capsys.readouterr().out
    (tmp_path / "gpu.json").write_text('{"device": "a ca')
    with pytest.raises(SystemExit):
        gpu.main()
    assert "cannot be read: Unterminated string" in capsys.readouterr().err
