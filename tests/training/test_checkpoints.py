"""Checkpoints hold plain data, and nothing in a foreign one is ever executed."""

import os
import pickle
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from errors import BadInput, RunStopped
from training import checkpoints
from training.checkpoint_files import newest_checkpoint, read_checkpoint


class Bomb:
    """Unpickled without restriction, it would create a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, form):
    trap, file = tmp_path / "trap", tmp_path / "last.ckpt"
    if form == "torch":
        torch.save({"state_dict": {}, "headstart": Bomb(trap)}, file)
    else:
        file.write_bytes(pickle.dumps({"headstart": Bomb(trap)}))
    with pytest.raises(BadInput, match="refused|cannot be read"):
        read_checkpoint(file)
    assert not trap.exists()


def test_cut_foreign_and_missing_files_are_refused(tmp_path):
    whole, cut, foreign = tmp_path / "whole.ckpt", tmp_path / "cut.ckpt", tmp_path / "foreign.ckpt"
    torch.save({"headstart": {"a": 1}, "w": torch.zeros(1000)}, whole)
    assert read_checkpoint(whole)["headstart"] == {"a": 1}
    cut.write_bytes(whole.read_bytes()[:2000])
    torch.save({"weights": torch.zeros(3)}, foreign)
    for file, reason in ((cut, "cannot be read|damaged"), (foreign, "not a checkpoint of"), (tmp_path / "no", "there is no")):
        with pytest.raises(BadInput, match=reason):
            read_checkpoint(file)


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    with pytest.raises(BadInput, match="holds no checkpoint"):
        newest_checkpoint(tmp_path)
    torch.save({"headstart": {}, "state_dict": {}, "global_step": 3}, folder / "previous.ckpt")
    (folder / "last.ckpt").write_bytes(b"cut")
    assert newest_checkpoint(tmp_path)[0] == folder / "previous.ckpt"
    assert "last.ckpt" in capsys.readouterr().out
    (folder / "previous.ckpt").write_bytes(b"cut too")
    with pytest.raises(BadInput, match="previous.ckpt"):
        newest_checkpoint(tmp_path)


def test_a_second_signal_ends_a_run_at_once_but_a_parent_that_is_gone_is_told_of_twice(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    callback = checkpoints.Checkpoints(tmp_path, 10)
    callback._on_signal(signal.SIGTERM, None)
    clock[0] += 0.01
    callback._on_signal(signal.SIGTERM, None)
    assert callback.signal == signal.SIGTERM
    for later, number in ((0.02, signal.SIGINT), (5, signal.SIGTERM)):
        clock[0] = 100 + later
        with pytest.raises(RunStopped, match="second signal"):
            callback._on_signal(number, None)


def test_a_folder_of_rank_files_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    done = []
    replace = os.replace
    monkeypatch.setattr(checkpoints, "sync", lambda folder: done.append(folder.name))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append(Path(names[1]).name), replace(*names)))
    callback = checkpoints.Checkpoints(tmp_path, 10)
    callback.folder.mkdir()
    trainer = SimpleNamespace(
        is_global_zero=True,
        logger=SimpleNamespace(experiment=SimpleNamespace(flush=lambda: None)),
        strategy=SimpleNamespace(barrier=lambda: None),
        save_checkpoint=lambda path: (path.mkdir(), (path / "rank_00000.ckpt").write_bytes(b"")),
    )
    callback.save(trainer, SimpleNamespace(stop_if_not_finite=lambda weights: None))
    assert done == ["next.part", "last.ckpt", "checkpoints"]
