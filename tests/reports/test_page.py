"""What the report says and does not say, its files, and that nothing in a record can break it."""

import re
import shlex
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from conftest import error_line
from made_results import make_run, make_runs
from records import drawn, record

from errors import BadInput
from reports.page import write_report
from reports.parts import Report
from reports.table import collect

VOID = {"meta", "link", "input", "br", "img", "hr"}
ATTACK = "<script>alert(1)</script>|`*"


class Outline(HTMLParser):
    """Checks nesting while it reads; keeps ids, heading levels, and texts by tag."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.ids, self.levels, self.tags, self.text = [], [], [], [], ""
        self.links, self.labelled = [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if re.fullmatch(r"h\d", tag):
            self.levels.append(int(tag[1]))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of runs with its report."""
    folder = tmp_path_factory.mktemp("made")
    make_runs(folder)
    results, broken = collect(folder)
    write_report(folder, Report.of(results, [*broken, f"'{ATTACK}' cannot be read"], folder))
    return folder


@pytest.fixture(scope="module")
def html(made) -> str:
    return (made / "report.html").read_text()


def test_the_page_is_well_formed_and_says_what_things_are(html):
    outline = Outline(html)
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.levels[0] == 1
    assert outline.levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(outline.levels, outline.levels[1:], strict=False))
    for tag, attributes in outline.tags:
        if tag == "a":
            assert attributes["href"][1:] in [*outline.ids, "data:,"]
        if tag == "img":
            assert attributes["alt"]
            assert attributes["src"].startswith("data:image/png;base64,")
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if tag == "svg" and "aria-hidden" not in attributes:
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in outline.ids
    assert dict(outline.tags)["html"]["lang"] == "en"
    tables, captions = (sum(tag == name for tag, _ in outline.tags) for name in ("table", "caption"))
    assert tables == captions
    figures = sum(tag == "svg" and "aria-hidden" not in attributes for tag, attributes in outline.tags)
    assert figures > 10
    assert tables > figures  # a table behind every figure


def test_all_kinds_of_figures_are_there(html):
    text = " ".join(Outline(html).text.split())
    for words in (
        "supervised is ahead of simclr, mae, random (p < 0.05",
        "Means over 3 seeds: supervised",
        "finetune @ 0.1 on emoji",
        "from scratch, all labels",
        "head start, mae finetune, vit_t on emoji:",
        "mean of 12 rankings, 4 tests",
        "chance of 80 % takes",
        "knn on emoji, FLOPs",
        "knn on emoji, seconds",
        "validation k-NN accuracy, %",
        "loss of simclr",
        "python train.py objective=simclr model=vit_t datamodule=emoji seed=2",
        "views, step 40",
        "<b>step 40</b> & [MASK]",
        "objective.mask_ratio",
        "1.00 GiB",
        "2.8e12",
    ):
        assert words in text, words


def test_nothing_of_a_record_is_markup(tmp_path, html):
    assert ATTACK not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|`*" in html
    results = [
        record(ATTACK, seed, 0.5 + seed / 50, task=ATTACK, model=ATTACK, protocol=ATTACK, fraction=f, labels=labels)
        for seed in range(2)
        for f, labels in ((0.1, 10), (1.0, 100))
    ] + [record("random", seed, 0.4, task=ATTACK, model=ATTACK, protocol="finetune") for seed in range(2)]
    page = write_report(tmp_path, Report.of(results, [], tmp_path)).read_text()
    assert "<script>alert" not in page
    Outline(page)
    text = (tmp_path / "report.md").read_text()
    assert "<script>alert" not in re.sub(r"```.*?```", "", text.replace("\\<", ""), flags=re.S)
    for line in text.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) == 13  # a name is no column
    assert pd.read_csv(tmp_path / "results.csv")["objective"][5] == ATTACK


def test_one_seed_has_no_winner_and_says_when_it_could(tmp_path):
    page = Outline(
        write_report(tmp_path, Report.of([record("mae", 0, 0.9), record("random", 0, 0.1)], [], tmp_path)).read_text()
    ).text
    assert "no difference can be told; one seed shows no spread" in page
    assert "estimated from 3 shared seeds on" in page
    assert "ahead" not in page
    assert "chance of 80 %" not in page
    assert "no difference can be told" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(("num_seeds", "planned"), [(2, False), (3, True)])
def test_the_plan_needs_three_shared_seeds(tmp_path, num_seeds, planned):
    results = drawn(np.random.default_rng(0), {"mae": 0.5, "simclr": 0.5}, num_seeds)
    text = Outline(write_report(tmp_path, Report.of(results, [], tmp_path)).read_text()).text
    assert ("with a chance of 80 % takes" in text) == planned
    assert ("(at the measured spread 3 points take" in text) == planned
    assert ("estimated from 3 shared seeds on" in text) != planned


def test_parts_that_never_met_are_told_apart(tmp_path):
    rng = np.random.default_rng(0)
    results = [*drawn(rng, {"mae": 0.7, "random": 0.3}, 3), record("mlm", 0, 0.5, model="bert_mini", task="kjv")]
    outline = Outline(write_report(tmp_path, Report.of(results, [], tmp_path)).read_text())
    assert "Only mlm was tested on kjv: there is nothing to compare it with." in outline.text
    assert "knn on task0: mae is ahead of random" in outline.text
    assert {"part-1", "part-2"} <= set(outline.ids)


def test_the_same_results_in_any_order_give_the_same_files(made, tmp_path):
    results, broken = collect(made)
    files = [made / name for name in ("report.html", "report.md", "results.csv")]
    first = [path.read_bytes() for path in files]
    write_report(made, Report.of(results[::-1], [*broken, f"'{ATTACK}' cannot be read"], made))
    assert [path.read_bytes() for path in files] == first


def test_rows_of_the_files_are_results_under_the_names_of_their_fields(made):
    results, _ = collect(made)
    frame = pd.read_parquet(made / "results.parquet")
    text = pd.read_csv(made / "results.csv")
    assert list(frame.columns) == list(text.columns)
    assert len(frame) == len(text) == len(results)
    for name in ("objective", "model", "data", "seed", "transfer.protocol", "transfer.num_labels", "metrics.accuracy",
                 "budget_spent.flops", "budget_spent.seconds", "versions.torch", "git_commit"):  # fmt: skip
        assert name in frame, name
    mine = frame[(frame["objective"] == "mae") & (frame["seed"] == 1) & (frame["transfer.protocol"] == "knn")].iloc[0]
    (result,) = (r for r in results if (r.objective, r.seed, r.transfer["protocol"]) == ("mae", 1, "knn"))
    assert mine["metrics.accuracy"] == result.metrics["accuracy"]
    assert mine["budget_spent.flops"] == 2.8e12
    assert mine["budget_spent.seconds"] == 31
    assert (frame[frame["objective"] == "random"]["budget_spent.flops"] == 0).all()
    assert np.allclose(frame["metrics.accuracy"], text["metrics.accuracy"])


def test_mixed_columns_become_text(tmp_path):
    results = [record("mae", 0, 0.5), record("mae", 1, 0.6)]
    results[0].metrics["readout"], results[1].metrics["readout"] = "mean of layer 3", 4.0
    results[0].settings["list"] = [1, 2]
    write_report(tmp_path, Report.of(results, [], tmp_path))
    frame = pd.read_parquet(tmp_path / "results.parquet")
    assert list(frame["metrics.readout"]) == ["mean of layer 3", "4.0"]
    assert frame["settings.list"][0] == "[1, 2]"


def test_the_text_lists_every_run_with_its_commands_and_what_is_broken(made):
    results, _ = collect(made)
    text = (made / "report.md").read_text()
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("python ")]
    assert sum(words[1] == "train.py" for words in commands) == 9
    assert sum(words[1] == "finetune.py" for words in commands) == len(results)
    assert len({tuple(words) for words in commands}) == len(commands)
    assert "Pareto front, knn on emoji: by FLOPs random" in text
    assert r"- '\<script\>alert(1)\</script\>\|\`\*' cannot be read" in text


def test_runs_that_moved_are_found_and_those_that_are_gone_are_said_to_be(made, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copytree(made, moved / "copy")
    for path in (moved / "copy").rglob("result.json"):
        path.write_text(path.read_text().replace(str(made), "/not/here"))
    shutil.rmtree(moved / "copy" / "mae_0")
    shutil.rmtree(moved / "copy" / "simclr_0")
    (moved / "copy" / "supervised_0" / "config.yaml").write_text("{[")
    results, broken = collect(moved)
    text = Outline(write_report(moved, Report.of(results, broken, moved)).read_text()).text
    assert "python train.py objective=mae model=vit_t datamodule=emoji seed=1" in text
    assert text.count("its other settings are not known") == 3
    assert text.count("views, step 40") == 6


def test_unequal_runs_that_are_averaged_are_warned_of(tmp_path):
    names = {"objective": "mae", "model": "vit_t", "datamodule": "emoji"}
    for seed, steps in enumerate((5, 5, 7)):
        config = {"seed": seed, "names": names, "budget": {"steps": steps}, "trainer": {"workers": seed}}
        make_run(tmp_path / f"mae{seed}", config, {"steps": steps})
    results = [record("mae", seed, 0.5) for seed in range(3)]
    for result, seed in zip(results, range(3), strict=True):
        result.transfer["checkpoint"] = str(tmp_path / f"mae{seed}")
    text = Outline(write_report(tmp_path, Report.of(results, [], tmp_path)).read_text()).text
    assert "Runs of mae are averaged though they differ in budget.steps." in text
    assert "different budgets" not in text
    assert "different versions" not in text
    assert "though they differ in budget.steps" in (tmp_path / "report.md").read_text()
    for path in (tmp_path / "mae2").glob("*.*"):
        path.write_text(path.read_text().replace("steps: 7", "steps: 5").replace('"torch": "2"', '"torch": "3"'))
    text = Outline(write_report(tmp_path, Report.of(results, [], tmp_path)).read_text()).text
    assert "though they differ" not in text
    assert "Runs were made with different versions of torch (2, 3)." in text


def test_unequal_entrants_and_tests_are_warned_of_in_the_terminal_too(tmp_path, here):
    for objective, steps in (("mae", 5), ("simclr", 500), ("byol", 500)):
        names = {"objective": objective, "model": "vit_t", "datamodule": "emoji"}
        make_run(tmp_path / "outputs" / objective, {"seed": 0, "names": names, "budget": {"steps": steps}}, {"steps": steps})
        for protocol, num_test in (("knn", 40), ("linear", 40 if objective == "mae" else 50)):
            result = record(objective, 0, 0.5, protocol=protocol)
            result.transfer.update(checkpoint=str(tmp_path / "outputs" / objective), num_test=num_test)
            (tmp_path / "outputs" / f"{protocol}_{objective}").mkdir()
            result.write(tmp_path / "outputs" / f"{protocol}_{objective}")
    done = here("compare.py", "report=outputs")
    said = [line for line in done.stdout.splitlines() if line.startswith("warning:")]
    assert [line.partition("  ")[2] for line in said] == [
        "Entrants had different budgets: 5 steps for mae, 500 steps for byol and simclr.",
        "linear on emoji was tested on 40 and 50 samples.",
    ]
    assert all(line.partition("  ")[2] in (tmp_path / "outputs" / "report.md").read_text() for line in said)


def test_unequal_spending_and_a_shared_start_are_said(tmp_path):
    def warned(flops: dict[str, float], start: str | None = None) -> list[str]:
        results = [record(name, seed, 0.5, spent={"flops": spent}) for name, spent in flops.items() for seed in range(2)]
        for result in results[:2]:
            result.transfer |= {"built_on": {"from": [start.format(result.seed)], "flops": 1.0}} if start else {}
        return Report.of(results, [], tmp_path).warnings

    assert warned({"mae": 1e12, "simclr": 1.04e12, "random": 0.0}) == []
    assert warned({"mae": 1e12, "simclr": 1.1e12, "byol": 1.02e12}) == [
        "Entrants spent different FLOPs: from 1e12 for mae to 1.1e12 for simclr, 10 % more."
    ]
    assert warned({"mae": 1e12, "simclr": 1e12}, "runs/first") == [
        "Seeds of mae share runs/first: spread and claims are given this one start."
    ]
    assert warned({"mae": 1e12, "simclr": 1e12}, "runs/first_{}") == []


def test_runs_that_are_judged_on_their_own_data_each_are_not_said_to_be_averaged(tmp_path):
    results = []
    for data in ("emoji", "cifar10"):
        names = {"objective": "mae", "model": "vit_t", "datamodule": data}
        make_run(tmp_path / data, {"seed": 0, "names": names, "datamodule": {"name": data}}, {"steps": 5})
        results.append(record("mae", 0, 0.5, task=data))
        results[-1].transfer["checkpoint"] = str(tmp_path / data)
    assert Report.of(results, [], tmp_path).warnings == []
    for result in results:
        result.transfer["data"] = "emoji"
    assert "Runs of mae are averaged though they differ in datamodule.name." in Report.of(results, [], tmp_path).warnings


def test_a_folder_of_another_run_is_not_taken_for_it(tmp_path):
    config = {"seed": 5, "names": {"objective": "simclr", "model": "vit_t", "datamodule": "emoji"}}
    make_run(tmp_path / "mae0", config, {"steps": 1})
    text = Outline(write_report(tmp_path, Report.of([record("mae", 0, 0.5)], [], tmp_path)).read_text()).text
    assert "views, step" not in text
    assert "its other settings are not known" in text


def test_the_command_prints_fronts_and_lists_broken_files(made, tmp_path, here):
    shutil.copytree(made, tmp_path / "outputs")
    (tmp_path / "outputs" / "cut").mkdir()
    (tmp_path / "outputs" / "cut" / "result.json").write_text('{"schema": 1, "ki')
    done = here("compare.py", "report=outputs")
    assert done.returncode == 0, done.stdout
    out = " ".join(done.stdout.split())
    assert "Pareto front, knn on emoji: by FLOPs random 40.3 % at 0, supervised 62.0 % at 2e12; by seconds random" in out
    assert "left out: 'outputs/cut/result.json' cannot be read" in out
    assert "report: outputs/report.html" in out
    assert "outputs/cut/result.json" in (tmp_path / "outputs" / "report.html").read_text()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, here):
    folder = tmp_path / "outputs"
    (folder / "a").mkdir(parents=True)
    record("mae", 0, 0.5).write(folder / "a")
    (folder / "results.csv").mkdir()
    assert "the report cannot be written into 'outputs'" in error_line(here("compare.py", "report=outputs"))
    with pytest.raises(BadInput, match="cannot be written"):
        write_report(folder, Report.of([record("mae", 0, 0.5)], [], folder))
