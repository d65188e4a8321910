"""Ctrl-C during an import ends the command, whatever the library that imports makes of it; elsewhere it is raised."""

import signal
import subprocess
import sys

import pytest
from conftest import ROOT

STUBBORN = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException:
    pass
"""

PROGRAM = """
import os, signal, sys
from conf.interrupts import ended_within_imports
sys.path.insert(0, sys.argv[1])
signal.signal(signal.SIGINT, getattr(signal, sys.argv[2]))
with ended_within_imports():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        print("raised", flush=True)
    import stubborn
    print("went on", flush=True)
print(signal.getsignal(signal.SIGINT) is getattr(signal, sys.argv[2]), flush=True)
"""


@pytest.mark.parametrize(
    ("handler", "code", "printed", "said"),
    [
        ("default_int_handler", 128 + signal.SIGINT, "raised\n", "error: interrupted; a run that has a checkpoint"),
        ("SIG_IGN", 0, "went on\nTrue\n", ""),  # a shell's background job
    ],
)
def test_an_import_does_not_swallow_an_interrupt(tmp_path, handler, code, printed, said):
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    program = [sys.executable, "-c", PROGRAM, str(tmp_path), handler]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, printed)
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == bool(said)


COMMAND = """
import os, sys
from conf.command import answered
number = int(sys.argv.pop(1))
sys.argv = sys.argv[1:]
answered(lambda: os.kill(os.getpid(), number))()
"""


@pytest.mark.parametrize(
    ("asked", "words", "said"),
    [
        (signal.SIGTERM, ["train.py"], "stopped by SIGTERM; a run that has a checkpoint goes on by resume=<its folder>"),
        (signal.SIGTERM, ["finetune.py"], "stopped by SIGTERM; a transfer that has no result.json yet begins anew"),
        (signal.SIGINT, ["finetune.py"], "interrupted; a transfer that has no result.json yet begins anew"),
        (signal.SIGINT, ["compare.py", "plan=images_demo"], "interrupted; the same command goes on with what is missing"),
        (signal.SIGINT, ["compare.py", "report=outputs"], "interrupted; the same command writes the report anew"),
    ],
)
def test_a_command_that_is_asked_to_stop_says_how_it_goes_on(asked, words, said):
    program = [sys.executable, "-c", COMMAND, str(int(asked)), *words]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + asked, done.stderr
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1
