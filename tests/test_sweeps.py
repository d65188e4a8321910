"""Sweeps that do not go well: which jobs are told of and when, which are done all the same, and what ends them all."""

import re
import signal
import subprocess
import sys

from conftest import ROOT, error_line
from test_commands import SMALL, folder_of
from test_interruption import begin, settings, wait_for_step

BROKEN = """
import sys
sys.path.insert(0, {root!r})
from conf.command import command

@command(config_path=None, config_name=None)
def main(config):
    return {{}}["{missing}"]

main()
"""


def test_jobs_that_fail_are_told_of_at_once_and_the_others_are_done(here, tmp_path, pictures):
    words = ["objective=mae", "model.depth=1", *folder_of(pictures), *SMALL, "hydra.sweep.dir=sweep"]
    done = here("train.py", "-m", "objective.mask_ratio=0.999,0.75,7", *words)
    reasons = ["leaves 0 of 64 patches visible", "must be a number above 0 and below 1, not 7"]
    events = [rf"job 0 failed: .*{reasons[0]}", r"step 2 of 2 ", rf"job 2 failed: .*{reasons[1]}"]
    assert re.search(".*".join(events), done.stdout, re.DOTALL), done.stdout
    assert re.search(rf"2 jobs of the sweep failed \(0, 2\); the first: .*{reasons[0]}", error_line(done))
    assert len(list((tmp_path / "sweep").glob("*/result.json"))) == 1


def test_a_signal_ends_the_whole_sweep(tmp_path, pictures):
    process = begin(tmp_path, "-m", *settings("mae", pictures), "seed=0,1", "hydra.sweep.dir=sweep")
    wait_for_step(process, 2)
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    last = rest.strip().splitlines()[-1]
    assert re.search(r"^error: stopped by SIGTERM .*resume=sweep/0\S+; the sweep ends with this job, 0$", last), rest
    assert [folder.name[0] for folder in (tmp_path / "sweep").iterdir() if folder.is_dir()] == ["0"]


SWEPT = """
import os, signal, sys, weakref
sys.path.insert(0, {root!r})
from conf.command import command
from errors import BadInput, RunStopped

class Tensor:
    pass

held = []

@command(config_path=None, config_name=None)
def main(config):
    assert not [tensor for tensor in held if tensor() is not None], "an earlier job's"
    tensor = Tensor()
    held.append(weakref.ref(tensor))
    if config.job == 2:
        raise RunStopped("stopped by SIGTERM", 128 + signal.SIGTERM)
    try:
        raise MemoryError("here")
    except MemoryError as error:
        raise BadInput("too large") from error

main()
"""


def test_what_a_failed_job_held_is_free_for_the_next_and_a_later_signal_has_the_last_word(tmp_path):
    script = tmp_path / "swept.py"
    script.write_text(SWEPT.format(root=str(ROOT)))
    words = [sys.executable, str(script), "-m", "+job=0,1,2,3"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert done.stderr.splitlines() == [
        "job 0 failed: too large",
        "job 1 failed: too large",
        "error: stopped by SIGTERM; the sweep ends with this job, 2",
    ]


def test_of_a_setting_that_a_choice_lacks_the_choice_is_named(here):
    line = error_line(here("train.py", "-m", "objective=mae,simclr,dino", "objective.mask_ratio=0.5"))
    assert re.search(r"with objective=simclr there is no setting 'objective.mask_ratio'; choices: .*temperature", line)
    assert "_target_" not in line


def test_a_defect_shows_where_it_is(tmp_path):
    script = tmp_path / "broken.py"
    script.write_text(BROKEN.format(root=str(ROOT), missing="nothing"))
    for words, times in (([], 1), (["-m", "+seed=1,2"], 3)):  # of a sweep each at once, and the first at the end
        done = subprocess.run([sys.executable, str(script), *words], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert done.stderr.count("KeyError: 'nothing'\n") == times, done.stderr
        assert 'return {}["nothing"]' in done.stderr
        assert "_PastHydra" not in done.stderr
