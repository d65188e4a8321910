"""From a plan to its list of jobs: baselines, order, names, what is found again, and what is refused."""

from pathlib import Path

import pytest
import yaml

from conf import choices_of
from conf.composition import compose_settings
from errors import BadInput
from plans.entrants import bases, composed, trained
from plans.identity import Shelf, run_identity, transfer_identity
from plans.job import Job
from plans.jobs import jobs_of
from plans.plan import Plan
from plans.words import differences, last_of_each, literal
from reports.result import Result

USUAL = compose_settings("compare", [])[0]


def plan_of(folder: Path | str = "plan", **settings) -> Plan:
    return Plan.of(USUAL | {"seeds": 1, "transfer": ["knn"], "folder": str(folder)} | settings, None)


def labels(jobs: list[Job]) -> list[str]:
    return [job.label for job in jobs]


def words(jobs: list[Job], label: str) -> tuple[str, ...]:
    return next(job.words for job in jobs if job.label == label)


def test_baselines_join_and_seeds_follow_each_other(tmp_path):
    plan = plan_of(tmp_path, objectives=["mae", "supervised", "random"], model="vit_t", datamodule="emoji", seeds=2)
    jobs = jobs_of(plan, Shelf(tmp_path))
    one = ["knn of random vit_t emoji seed {}"]
    for objective in ("supervised", "mae"):
        one += [f"{objective} vit_t emoji seed {{}}", f"knn of {objective} vit_t emoji seed {{}}"]
    assert labels(jobs) == [label.format(seed) for seed in (0, 1) for label in one]
    for job in jobs[1:5]:
        assert (job.after is None) == (job.script == "train")
    assert len({job.folder for job in jobs}) == len(jobs)


def test_every_protocol_and_label_fraction_judges_every_encoder(tmp_path):
    plan = plan_of(tmp_path, objectives="mae", transfer=["knn", "linear"], label_fractions=[0.01, 1], seeds=[3])
    jobs = jobs_of(plan, Shelf(tmp_path))
    assert [(job.protocol, job.fraction) for job in jobs if job.label.endswith("of mae vit_t emoji seed 3")] == [
        ("knn", 0.01), ("knn", 1.0), ("linear", 0.01), ("linear", 1.0),
    ]  # fmt: skip
    assert jobs[0].label == "knn @ 0.01 of random vit_t emoji seed 3"


def test_settings_reach_the_runs_they_are_for(tmp_path):
    settings = {
        "all": ["trainer.workers=2"], "emoji": "datamodule.image_size=32", "mae": {"model.depth": 6}, "knn": ["transfer.k=5"],
        "simclr": {"model": "resnet18"},
    }  # fmt: skip
    plan = plan_of(
        tmp_path, objectives=["mae", "simclr"], datamodule="emoji", budget=USUAL["budget"] | {"minutes": 2},
        transfer=["knn", "linear"], settings=settings,
    )  # fmt: skip
    jobs = jobs_of(plan, Shelf(tmp_path))
    assert words(jobs, "mae vit_t emoji seed 0") == (
        "objective=mae", "datamodule=emoji", "budget.minutes=2", "trainer.workers=2", "datamodule.image_size=32",
        "model.depth=6", "seed=0",
    )  # fmt: skip
    assert "model=resnet18" in words(jobs, "simclr resnet18 emoji seed 0")
    # baselines of both models, shaped as the entrants are
    assert words(jobs, "knn of random vit_t emoji seed 0") == (
        "checkpoint=none", "model=vit_t", "model.depth=6", "datamodule=emoji", "datamodule.image_size=32",
        "trainer.workers=2", "transfer.k=5", "seed=0",
    )  # fmt: skip
    assert "model.depth=6" in words(jobs, "supervised vit_t emoji seed 0")
    assert "transfer.k=5" not in words(jobs, "linear of supervised resnet18 emoji seed 0")


def test_settings_of_a_model_hold_for_its_objectives_and_its_baseline_and_give_way_to_an_objectives_own(tmp_path):
    settings = {
        "resnet18": ["budget.flops=null", "budget.steps=7"], "simclr": ["model=resnet18"],
        "byol": ["model=resnet18", "budget.steps=null", "budget.samples=640"],
    }  # fmt: skip
    plan = plan_of(tmp_path, objectives=["mae", "simclr", "byol"], budget=USUAL["budget"] | {"flops": 1e12}, settings=settings)
    jobs = jobs_of(plan, Shelf(tmp_path))
    asked = {
        label: {word for word in words(jobs, f"{label} emoji seed 0") if word.startswith("budget.")}
        for label in ("mae vit_t", "supervised vit_t", "simclr resnet18", "supervised resnet18", "byol resnet18")
    }
    assert asked["mae vit_t"] == asked["supervised vit_t"] == {"budget.flops=1000000000000.0"}
    assert asked["simclr resnet18"] == asked["supervised resnet18"] == {"budget.flops=null", "budget.steps=7"}
    assert asked["byol resnet18"] == {"budget.flops=null", "budget.steps=null", "budget.samples=640"}


def test_a_continued_run_is_found_whatever_model_stood_beside_it():
    config = compose_settings("train", ["objective=mae", "model.init=old", "budget.steps=2"])[0]
    config |= {"names": {"objective": "mae", "model": "vit_t", "datamodule": "emoji"}}
    recorded = config | {  # as train.py resolves it
        "names": config["names"] | {"model": "vit_s"}, "model": config["model"] | {"depth": 3},
        "continued": {"objective": "simclr", "datamodule": "cifar10"},
    }  # fmt: skip
    assert run_identity(recorded) == run_identity(config)
    assert run_identity(config | {"replay": 0.5}) != run_identity(config)
    assert run_identity(config | {"model": config["model"] | {"init": "other"}}) != run_identity(config)


def test_what_a_run_began_with_is_not_asked_of_its_baselines(tmp_path):
    plan = plan_of(tmp_path, objectives=["mae"], settings={"mae": ["model.init=somewhere", "replay=0.1"]})
    jobs = jobs_of(plan, Shelf(tmp_path))
    assert "model.init=somewhere" in words(jobs, "mae vit_t emoji seed 0")
    for label in ("knn of random vit_t emoji seed 0", "supervised vit_t emoji seed 0"):
        assert not any("init" in word for word in words(jobs, label))


def test_each_objective_meets_each_model_and_data_set(tmp_path):
    plan = plan_of(tmp_path, objectives=["simclr"], model=["vit_t", "resnet18"], datamodule=["emoji", "cifar10"])
    pairs = [("vit_t", "emoji"), ("resnet18", "emoji"), ("vit_t", "cifar10"), ("resnet18", "cifar10")]
    assert [(entrant.model, entrant.datamodule) for entrant in trained(plan)] == pairs
    assert [(base.like.model, base.like.datamodule) for base in bases(trained(plan))] == pairs


def test_an_experiment_gives_way_to_the_budget_of_the_plan(tmp_path):
    plan = plan_of(
        tmp_path, objectives=["mae"], datamodule="image_folder", budget=USUAL["budget"] | {"steps": 3},
        settings={"mae": ["experiment=cifar10_12k_mae"], "image_folder": ["datamodule.root=pictures"]},
    )  # fmt: skip
    (entrant,) = trained(plan)
    assert {unit: amount for unit, amount in entrant.settings["budget"].items() if amount is not None} == {"steps": 3}
    assert entrant.settings["objective"]["decoder_width"] == 128


def test_other_data_of_pictures_need_one_size(tmp_path):
    plan = {"objectives": ["mae"], "datamodule": "cifar10", "tasks": ["flowers102", "emoji datamodule.label=subcategory"]}
    with pytest.raises(BadInput, match="one size for all encoders"):
        jobs_of(plan_of(tmp_path, **plan), Shelf(tmp_path))
    jobs = jobs_of(plan_of(tmp_path, **plan, settings={"all": ["datamodule.image_size=32"]}), Shelf(tmp_path))
    assert words(jobs, "knn of random vit_t cifar10 seed 0 on emoji-subcategory") == (
        "checkpoint=none", "model=vit_t", "datamodule=emoji", "datamodule.label=subcategory", "datamodule.image_size=32",
        "seed=0",
    )  # fmt: skip
    assert words(jobs, "knn of mae vit_t cifar10 seed 0 on flowers102")[1:] == ("datamodule=flowers102", "seed=0")


def test_text_without_labels_is_judged_on_tasks_with_one_tokenizer(tmp_path):
    plan = {"objectives": ["mlm"], "datamodule": "text_files", "settings": {"text_files": ["datamodule.files=a.txt"]}}
    with pytest.raises(BadInput, match="text_files has no labels to judge on"):
        jobs_of(plan_of(tmp_path, **plan), Shelf(tmp_path))
    jobs = jobs_of(plan_of(tmp_path, **plan, tasks=["glue datamodule.task=cola", "glue datamodule.task=rte"]), Shelf(tmp_path))
    first = next(job for job in jobs if job.label == "mlm bert_mini text_files seed 0")
    tokenizer = f"datamodule.tokenizer.path={first.folder}"
    for label in ("knn of random bert_mini text_files seed 0 on glue-rte", "supervised_text bert_mini glue seed 0"):
        assert next(job for job in jobs if job.label == label).after == first
        assert tokenizer in words(jobs, label)
    supervised = [job.label for job in jobs if job.label.startswith("knn of supervised")]
    assert supervised == [f"knn of supervised_text bert_mini glue seed 0 on glue-{task}" for task in ("cola", "rte")]


def finish(folder: Path, config: dict, result: Result) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "encoder.json").touch()
    result.write(folder)


def test_captioned_pictures_are_compared_with_supervised_training_on_their_labels(tmp_path):
    plan = plan_of(tmp_path, objectives=["clip", "captioning"], model="vit_t")
    assert labels(jobs_of(plan, Shelf(tmp_path))) == [
        "knn of random vit_t emoji_captions seed 0",
        *(
            label
            for objective in ("supervised", "clip", "captioning")
            for label in (f"{objective} vit_t emoji_captions seed 0", f"knn of {objective} vit_t emoji_captions seed 0")
        ),
    ]
    plan = plan_of(tmp_path, objectives="text_to_image", settings={"text_to_image": ["objective.tokenizer=somewhere"]})
    assert "supervised_text gpt_mini emoji_captions seed 0" in labels(jobs_of(plan, Shelf(tmp_path)))


def test_finished_runs_are_found_wherever_they_came_from(tmp_path):
    plan = plan_of(tmp_path, objectives=["mae"], settings={"all": ["model.depth=2"]}, budget=USUAL["budget"] | {"flops": 2e13})
    settings, choices = composed("train", ("objective=mae", "model.depth=2", "budget.flops=2e13", "trainer.workers=3"))
    names = {group: choices[group] for group in ("objective", "model", "datamodule")}
    run = tmp_path / "sweeps" / "0_mae"
    finish(run, settings | {"names": names}, Result("pretrain", "mae", "vit_t", "emoji", 0))
    finish(run.with_name("1_mae"), settings | {"names": names, "seed": 1}, Result("pretrain", "mae", "vit_t", "emoji", 1))
    judged, _ = composed("finetune", ("transfer=knn",))
    transfer = {"protocol": "knn", "checkpoint": str(run)}
    result = Result("transfer", "mae", "vit_t", "emoji", 0, transfer=transfer)
    finish(tmp_path / "elsewhere", judged | {"seed": 0, "checkpoint": "latest"}, result)
    found = {job.label: job.folder for job in jobs_of(plan, Shelf(tmp_path)) if job.found}
    assert found == {"mae vit_t emoji seed 0": run, "knn of mae vit_t emoji seed 0": tmp_path / "elsewhere"}
    (run / "encoder.json").unlink()
    assert not any(job.found for job in jobs_of(plan, Shelf(tmp_path)))  # nor what judged an encoder that is made again


def test_protocols_of_two_towers_judge_two_towers_only(tmp_path):
    settings = {
        "objectives": ["captioning", "clip"], "model": "vit_t", "transfer": ["knn", "retrieval"], "label_fractions": [0.1, 1],
        "settings": {"clip": ["objective.text_model=bert_tiny"]},
    }  # fmt: skip
    jobs = jobs_of(plan_of(tmp_path, **settings), Shelf(tmp_path))
    found = {job.label: job.words for job in jobs if job.protocol == "retrieval"}
    random, clip = "retrieval of random vit_t emoji_captions seed 0", "retrieval of clip vit_t emoji_captions seed 0"
    assert list(found) == [random, clip]
    assert "text_model=bert_tiny" in found[random]
    assert "text_model=bert_tiny" not in found[clip]
    assert sum(job.protocol == "knn" for job in jobs) == 2 * 4
    with pytest.raises(BadInput, match=r"transfer=retrieval compares pictures with texts.* fit: clip, siglip"):
        jobs_of(plan_of(tmp_path, **settings | {"objectives": ["captioning"], "settings": {}}), Shelf(tmp_path))


def test_fresh_towers_of_other_texts_are_other_encoders():
    asked = [composed("finetune", ("checkpoint=none", "model=vit_t", f"transfer={protocol}", f"text_model={name}"))[0]
             for protocol in ("retrieval", "knn") for name in ("bert_mini", "bert_tiny")]  # fmt: skip
    retrieval, other, knn, same = (transfer_identity(settings, None) for settings in asked)
    assert retrieval != other
    assert knn == same


@pytest.mark.parametrize("quoted", ["'datamodule.root=/my (old) pics'", "datamodule.root='/my (old) pics'"])
def test_the_path_of_a_task_may_have_spaces(tmp_path, quoted):
    plan = plan_of(tmp_path, objectives=["mae"], datamodule="emoji", tasks=[f"image_folder {quoted}"])
    jobs = jobs_of(plan, Shelf(tmp_path))
    label = "knn of mae vit_t emoji seed 0 on image_folder-my (old) pics"
    settings, _ = composed("finetune", ("transfer=knn", *words(jobs, label)))
    assert settings["datamodule"]["root"] == "/my (old) pics"


def test_what_is_learned_makes_runs_different_and_what_is_speed_does_not():
    config = composed("train", ())[0] | {"names": {"objective": "mae"}}
    same = [
        config | {"trainer": {"workers": 7}}, config | {"monitor": {}}, config | {"resume": "run"},
        config | {"datamodule": config["datamodule"] | {"cache": "/tmp"}},
        config | {"budget": {"flops": 12_000_000_000_000}}, yaml.safe_load(yaml.safe_dump(config)),
    ]  # fmt: skip
    other = [
        config | {"seed": 1}, config | {"budget": {"flops": 1e12}},
        config | {"optimizer": config["optimizer"] | {"base_lr": 0.5}},
        config | {"datamodule": config["datamodule"] | {"root": "elsewhere"}}, config | {"ema": 0.99},
    ]  # fmt: skip
    assert all(run_identity(part) == run_identity(config) for part in same)
    assert all(run_identity(part) != run_identity(config) for part in other)


def test_broken_records_are_listed_and_not_fatal(tmp_path):
    for name, text in (("cut", '{"schema": 1, "kind"'), ("newer", '{"schema": 99}'), ("foreign", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(text)
    shelf = Shelf(tmp_path)
    assert len(shelf.broken) == 3
    assert shelf.folders == {}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"objectives": ["mea"]}, "objectives: there is no objective 'mea'; did you mean mae"),
        ({"objectives": []}, "objectives names nothing to compare; choices: .*simclr"),
        ({"objectives": ["supervised"]}, "objectives names nothing to compare"),
        ({"model": "vit"}, "model: there is no model 'vit'"),
        ({"datamodule": ["emoji", "cifar"]}, "datamodule: there is no datamodule 'cifar'; did you mean .*cifar10"),
        ({"transfer": []}, "transfer names nothing to compare; choices: finetune, knn, linear"),
        ({"transfer": ["lienar"]}, "did you mean linear"),
        ({"tasks": ["glu datamodule.task=cola"]}, "tasks: there is no datamodule 'glu'; did you mean glue"),
        (
            {"tasks": ["glue datamodule.root=/my pics"]},
            "tasks: 'pics' in .* sets nothing; .* quotation marks",
        ),
        ({"tasks": ["glue 'datamodule.task=cola"]}, "tasks: in .* a quotation mark is not closed"),
        ({"tasks": [""]}, "tasks: there is no datamodule ''"),
        ({"settings": {"simclrr": ["model.depth=1"]}}, "settings: there is nothing called 'simclrr'; did you mean simclr"),
        ({"settings": {"al": ["model.depth=1"]}}, "settings: there is nothing called 'al'; .*all"),
        ({"seeds": 0}, "seeds=0 must be a number of seeds, 1 or more"),
        ({"seeds": []}, "seeds="),
        ({"seeds": -1}, "seeds=-1"),
        ({"seeds": [0, 1, 1]}, "holds a seed twice"),
        ({"seeds": "three"}, "seeds=three"),
        ({"jobs": 0}, "jobs=0 must be a number of processes"),
        ({"label_fractions": [0.1, 0]}, "above 0 and at most 1"),
        ({"label_fractions": [1.5]}, "above 0 and at most 1"),
        ({"budget": {"steps": 1, "minutes": 2}}, "exactly one budget can be set"),
        ({"budget": {"flops": -1}}, "budget.flops must be a positive number"),
    ],
)
def test_what_is_no_plan_is_refused(settings, expected):
    with pytest.raises(BadInput, match=expected) as error:
        plan_of(**{"objectives": ["mae"]} | settings)
    assert "\n" not in str(error.value)


def test_objectives_and_models_that_do_not_belong_together_are_refused():
    with pytest.raises(
        BadInput, match=r"objective=mlm is for text, model=vit_t for image; model choices that fit: .*bert_mini"
    ):
        trained(plan_of(objectives=["mae", "mlm"], model="vit_t"))


@pytest.mark.parametrize("name", choices_of("plan"))
def test_every_plan_makes_its_list_of_jobs(tmp_path, name):
    plan = Plan.of(compose_settings("compare", [f"plan={name}", f"folder={tmp_path}"])[0], name)
    jobs = jobs_of(plan, Shelf(tmp_path))
    entrants = {job.label.split()[0] for job in jobs if job.script == "train"}
    assert entrants > set(plan.objectives)
    assert any("random" in job.label for job in jobs)
    for job in jobs:
        assert job.after is None or job.after in jobs


@pytest.mark.parametrize("name", choices_of("experiment"))
def test_every_experiment_composes_and_says_what_it_reaches_and_costs(name):
    from conf import CONF
    from training.budget import Budget
    from training.fitting import check_fit

    settings, choices = compose_settings("train", [f"experiment={name}"], complete=False)
    check_fit({group: choices[group] for group in ("objective", "model", "datamodule")})
    assert Budget.of(settings["budget"], 1.0).amount > 1
    header = [line for line in (CONF / "experiment" / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert len(header) >= 3
    assert any(unit in " ".join(header) for unit in ("minutes", "seconds", "hours", "days", "cost"))


def test_words_survive_the_trip_through_hydra():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    names = ["a b", 'q"uo,te=', "C:\\x\\", "é{}[]", "/a/b-c.d", "True", "nan", "null", "2b", "", "vit_t", "1e-3"]
    values = [None, True, 3, 1e-05, 2.8e12, [1, "x,y"], {"a": 1, "b": ["c=d"]}, *names]
    parsed = OverridesParser.create().parse_overrides([f"key={literal(value)}" for value in values])
    found = [override.value() for override in parsed]
    assert found == values


def test_differences_turn_one_node_into_the_other():
    usual = {"depth": None, "settings": {"a": 1, "b": [1]}, "root": "???", "same": "x"}
    node = {"depth": 6, "settings": {"a": 1, "b": [2], "c": True}, "root": "a=b", "same": "x"}
    assert differences(node, usual, "model") == [
        "model.depth=6", "model.settings.b=[2]", "+model.settings.c=true", 'model.root="a=b"',
    ]  # fmt: skip


def test_of_words_that_set_the_same_the_last_counts():
    assert last_of_each(["a=1", "b=2"], ["a=3"], ["+b=4"]) == ("a=3", "+b=4")
