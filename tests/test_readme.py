"""What the README says is run: its worked example whole, and its commands by their names."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks import novels
from benchmarks.record import markdown, read_all

README = (ROOT / "README.md").read_text(encoding="utf-8")
ROOMS = ("conf", "objectives", "models", "datamodules", "training", "transfer", "reports")


def test_the_worked_example_is_three_files_and_runs(tmp_path, pictures):
    files = re.findall(r"^`([\w/.]+)`: .*?\n\n```\w+\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == [
        "objectives/rotation.py",
        "conf/objective/rotation.yaml",
        "tests/objectives/test_rotation.py",
    ]
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ("train.py", "errors.py", "ranges.py"):
        shutil.copy(ROOT / script, tmp_path)
    (tmp_path / "tests" / "objectives").mkdir(parents=True)
    for name, text in files:
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text)
    words = [
        "objective=rotation", "model=vit_t", "model.depth=1", "datamodule=image_folder", f"datamodule.root={pictures}",
        "budget.steps=2", "datamodule.batch_size=8",
    ]  # fmt: skip
    for command in (
        [sys.executable, "train.py", *words],
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/objectives/test_rotation.py"],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    linted = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), files[0][0], files[2][0]],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert linted.returncode == 0, linted.stdout


def test_every_choice_stands_in_the_readme():
    table = README.partition("| choice | names |")[2].partition("\n\n")[0]
    for group in ("objective", "model", "datamodule", "optimizer", "trainer", "transfer"):
        row = next(line for line in table.splitlines() if line.startswith(f"| `{group}`"))
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert re.search(rf"[`( ]{path.stem}[` ]", row), f"{group}={path.stem} is not in the README"


def test_the_speed_tables_are_what_the_records_give():
    lines = README.splitlines()
    for line in markdown(read_all()).splitlines()[2:]:
        assert lines.count(line) == 1, line


def test_the_tables_of_the_novels_are_what_the_records_give():
    for table in novels.tables(novels.read_records(novels.RECORDS)):
        assert novels.markdown(table) in README


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.name)
def test_what_a_page_links_to_exists(page):
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, heading = link.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), link
        assert not heading or heading in headings(there), link


def headings(page: Path) -> list[str]:
    """As GitHub names them in addresses."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in found]
