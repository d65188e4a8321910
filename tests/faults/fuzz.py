"""Damaging files, and watching what a process does with them: bounded in time and memory, in a fork that may crash."""

import copy
import json
import os
import random
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from conf.endings import _exhausted
from errors import BadInput

SECONDS = 20  # a case may take
MEMORY = 2**30  # bytes that a process may map beyond what it had
HOSTILE = (
    None, True, False, -1, 0, 1, 3, 10**9, 1e30, -0.5, float("nan"), "", "x", "null", "../outside", "/nowhere", "\x00",
    "ü" * 300, [], [1, "x"], {}, {"_target_": "os.system"}, {"x": 1},
)  # fmt: skip


def damaged(raw: bytes, chance: random.Random) -> bytes:
    """The same bytes, cut, flipped, overwritten, repeated or with something in between, once or a few times."""
    made = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        if not made:
            break
        place, length = chance.randrange(len(made)), chance.choice((1, 2, 4, 16, 256))
        what = chance.randrange(7)
        if what == 0:
            made[place] ^= 1 << chance.randrange(8)
        elif what == 1:
            made[place : place + length] = bytes(chance.randrange(256) for _ in range(length))
        elif what == 2:
            del made[place : place + length]
        elif what == 3:
            made[place:place] = made[place : place + length] * chance.choice((1, 3, 50))
        elif what == 4:
            made[place : place + length] = chance.choice((b"\xff", b"\x00", b"\n", b"\t", b'"')) * length
        elif what == 5 and chance.random() < 0.3:
            del made[place:]
        else:
            made[place : place + 4] = chance.choice((0, 1, 2**31 - 1, 2**32 - 1)).to_bytes(4, chance.choice(("little", "big")))
    return bytes(made)


def leaves(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of everything in a tree of dicts and lists."""
    if path:
        yield path
    parts = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in parts:
        yield from leaves(value, (*path, key))


def with_other_values(tree: Any, chance: random.Random, spared: set[str] = frozenset()) -> Any:
    """A tree in which one to three things are missing, or are something else; `spared` keys keep theirs."""
    made = copy.deepcopy(tree)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        paths = [path for path in leaves(made) if not spared & set(map(str, path))]
        *parents, key = chance.choice(paths)
        owner = made
        for parent in parents:
            owner = owner[parent]
        if chance.random() < 0.2:
            del owner[key]
        else:
            owner[key] = chance.choice(HOSTILE)
    return made


def watch(cases: int, one: Callable[[int], str], folder: Path) -> Counter:
    """What became of cases 0, 1, ...: the word that `one` returns, or "refused" or "out of memory", each with its line.

    Raises:
        AssertionError: a case crashed, hung, raised anything else, or left a file outside `folder`.
    """
    outside, record = _listing(folder.parent), folder / "record.json"
    pid = os.fork()
    if pid == 0:
        _work(cases, one, record, folder)
    while not (done := os.waitpid(pid, os.WNOHANG))[0]:
        time.sleep(0.05)
        if record.exists() and time.time() - record.stat().st_mtime > 3 * SECONDS:  # it does not even answer its alarm
            os.kill(pid, signal.SIGKILL)
    status = done[1]
    found = json.loads(record.read_text())
    assert os.waitstatus_to_exitcode(status) == 0, f"case {found['case']} ended the process with {status}"
    assert "error" not in found, f"case {found['case']}: {found['error']}"
    assert _listing(folder.parent) == outside, "a file was left outside of the folder"
    return Counter(found["outcomes"])


def _listing(folder: Path) -> set[Path]:
    return {path for path in folder.iterdir()}


def _work(cases: int, one: Callable[[int], str], record: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a tokenizer's threads do not survive a fork: it would wait forever
    os.chdir(folder)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _too_long)
    outcomes: Counter = Counter()
    state: dict[str, Any] = {}
    for case in range(cases):
        state = {"case": case, "outcomes": outcomes}
        record.write_text(json.dumps(state))
        signal.alarm(SECONDS)
        try:
            outcome = one(case)
        except BadInput as error:
            outcome = "refused" if "\n" not in str(error) and 10 < len(str(error)) < 2000 else f"refused unclearly: {error}"
        except BaseException as error:
            if not isinstance(error, Exception) or _exhausted(error) is None:
                record.write_text(json.dumps(state | {"error": traceback.format_exc()[-3000:]}))
                os._exit(0)
            outcome = "out of memory"
        finally:
            signal.alarm(0)
        outcomes[outcome] += 1
    record.write_text(json.dumps({"case": cases, "outcomes": outcomes}))
    os._exit(0)


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")
