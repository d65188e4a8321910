"""What `gpu.py` prints of its records: speed beside the bare loop, in which kernels a step is spent, and steps in a row."""

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import gpu_kernels, machine
from reports.markdown import plain_table

HEADER = ("case", "", "a second", "MFU", "wanted", "memory", "ours / bare")
KERNEL_HEADER = ("case, bare", "step", "kernels of one alone", "products and weights at the measured rates")
ROW_HEADER = ("case, bare, in a row", "step", "its kernels", "none of them", "clock", "power")


def tell(records: dict[str, dict[str, Any]], rates: dict[str, Any] | None) -> None:
    """Print all tables; those of kernels where the rates of a card are known."""
    table = Table(*HEADER)
    for name, record in records.items():
        for row in rows(name, record):
            table.add_row(*row)
    Console(width=max(140, Console().width)).print(table)
    if not rates:
        return
    found = [record["sides"]["bare"]["kernels"] for record in records.values()]
    kinds = [kind for kind in gpu_kernels.KINDS if all(kind in kernels for kernels in found)]
    print(plain_table((*KERNEL_HEADER, *kinds), [kernel_row(name, record, rates, kinds) for name, record in records.items()]))
    in_a_row = [row_of_steps(name, record) for name, record in records.items() if "row" in record["sides"]["bare"]]
    if in_a_row:  # older records are of one step alone
        print(plain_table(ROW_HEADER, in_a_row))
    products, copies = rates["matmul_flops"]["bf16"], rates["copy_bytes"]
    lasting = f", {rates['lasting_matmul_flops'] / 1e12:,.0f} for longer" if "lasting_matmul_flops" in rates else ""
    print(f"measured rates: matrix products {products / 1e12:,.0f} TFLOP/s{lasting}, copies {copies / 1e12:.2f} TB/s")


def spoken(name: str, record: dict[str, Any]) -> str:
    """Both sides in a line, while others are still measured."""
    return ", ".join(f"{row[1]} {row[2]}/s {row[3]}".strip() for row in rows(name, record))


def rows(name: str, record: dict[str, Any]) -> list[list[str]]:
    """Lines of the first table."""
    found = []
    for side, facts in record["sides"].items():
        mfu = "" if facts["mfu"] is None else f"{facts['mfu']:.1%}"
        wanted = f">= {record['mfu_wanted']:.0%}" if record["mfu_wanted"] and side == "ours" else ""
        speed = f"{facts['rate']:,.0f} {record['unit']}"
        gain = f"{facts['rate'] / record['sides']['bare']['rate']:.2f}" if side == "ours" else ""
        memory = f"{facts['peak_memory_bytes'] / 1e9:.1f} GB"
        found.append([f"{name}: {record['work']}" if side == "ours" else "", side, speed, mfu, wanted, memory, gain])
    return found


def kernel_row(name: str, record: dict[str, Any], rates: dict[str, Any], kinds: list[str]) -> list[str]:
    """A line of the second table, of the bare loop: a step, one step's kernels before any was timed, its least, and shares."""
    facts, kernels = record["sides"]["bare"], record["sides"]["bare"]["kernels"]
    step, whole = record["units_a_step"] / facts["rate"], sum(kernels.values())
    flops = record["sides"]["ours"]["sample_flops"] * record["samples_a_step"]
    fewest = machine.fewest_seconds(flops, facts["parameters"], rates, "bf16")
    shares = [f"{kernels[kind] / whole:.1%}" for kind in kinds]
    return [name, *(f"{seconds * 1e3:.1f} ms" for seconds in (step, whole, fewest)), *shares]


def row_of_steps(name: str, record: dict[str, Any]) -> list[str]:
    """A line of the third table, of the bare loop; without nvidia-smi clock and power are not known."""
    facts = record["sides"]["bare"]
    step, row, power = record["units_a_step"] / facts["rate"], facts["row"], facts["power"]
    milliseconds = [f"{seconds * 1e3:.1f} ms" for seconds in (step, row["kernels"], row["idle"])]
    drawn = [
        f"{power[what]:,.0f} of {power[f'highest_{what}']:,.0f} {unit}" if power else ""
        for what, unit in (("clock", "MHz"), ("power", "W"))
    ]
    return [name, *milliseconds, *drawn]
