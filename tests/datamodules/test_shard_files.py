"""Which shards a pattern means, and shards that are not on this machine."""

import os

import fsspec
import pytest
from made_shards import opened, sample, shards, shown, tar

from datamodules.shard_files import shard_files
from errors import BadInput


def names(patterns) -> list[str]:
    return [file.name.rpartition("/")[2] for file in shard_files(patterns, "datamodule.shards")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("a-08", "a-09", "a-10", "b-08", "b-09", "b-10", "c[1]"):
        (tmp_path / f"{name}.tar").write_bytes(b"")
    (tmp_path / "folder.tar").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_braces_globs_and_lists(folder):
    assert names("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert names("{b,a}-{08..09}.tar") == ["b-08.tar", "b-09.tar", "a-08.tar", "a-09.tar"]
    assert names("?-1*.tar") == ["a-10.tar", "b-10.tar"]
    assert names(["b-08.tar", "{a,b}-*8.tar"]) == ["b-08.tar", "a-08.tar"]  # each once
    assert names("c[1].tar") == ["c[1].tar"]
    assert names(f"file://{folder}/a-08.tar") == ["a-08.tar"]
    assert names(f"{folder}/a-1*.tar") == ["a-10.tar"]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ("a-{07..12}.tar", r"3 of 6 shards are missing: 'a-07\.tar', 'a-11\.tar', 'a-12\.tar'$"),
        ("a-{20..99}.tar", r"80 of 80 shards are missing: 'a-20\.tar', .*, \.\.\.$"),
        ("z-*.tar", r"datamodule\.shards='z-\*\.tar' matches no shard"),
        (["a-08.tar", "z-*.tar"], "matches no shard"),
        ("folder.tar", "1 of 1 shards are missing"),
        ("", "names no shard; give paths"),
        ([], "names no shard"),
        ("a-{08..10.tar", "unbalanced braces"),
        ("pipe:curl http://x/a.tar", "would run a shell command"),
        ("memory://nothing/x-{0..1}.tar", "2 of 2 shards are missing: 'memory://nothing/x-0.tar'"),
        ("memory://nothing/x-*.tar", "matches no shard"),
        ("nosuch://bucket/x.tar", "cannot be reached: .*nosuch"),
    ],
)
def test_what_is_not_there_is_named_in_one_line(folder, patterns, message):
    with pytest.raises(BadInput, match=message) as error:
        names(patterns)
    assert "\n" not in str(error.value)


@pytest.fixture
def store(tmp_path):
    """An object store in memory with two shards of training samples."""
    system = fsspec.filesystem("memory")
    shards(tmp_path, [range(0, 10), range(10, 24)], name="remote")
    for shard in range(2):
        system.pipe(f"/bucket/train-{shard}.tar", (tmp_path / f"remote-{shard:02}.tar").read_bytes())
    yield system
    system.rm("/bucket", recursive=True)


def test_shards_of_an_object_store_are_fetched_once(store, tmp_path, monkeypatch):
    fetched = []
    original = type(store).get_file
    monkeypatch.setattr(
        type(store), "get_file", lambda self, *given, **more: fetched.append(1) or original(self, *given, **more)
    )
    for pattern in ("memory://bucket/train-{0..1}.tar", "memory://bucket/train-*.tar"):
        data = opened(tmp_path, pattern)
        numbers = [number for batch in data.evaluation_loader("train") for number, _ in shown(data, batch)]
        assert numbers == list(range(24))
    assert len(fetched) == 2
    os.truncate(next((tmp_path / "cache" / "shards").glob("*.tar")), 100)
    assert opened(tmp_path, "memory://bucket/train-*.tar").spec.num_train == 24
    assert len(fetched) == 3
    tar(tmp_path / "new.tar", sample(30) + sample(31))
    store.pipe("/bucket/train-0.tar", (tmp_path / "new.tar").read_bytes())
    data = opened(tmp_path, "memory://bucket/train-*.tar")
    assert data.spec.num_train == 16
    assert len(fetched) == 4
    assert not list((tmp_path / "cache").rglob("*.unfinished"))


def test_a_store_that_breaks_off_is_reported_and_leaves_nothing(store, tmp_path, monkeypatch):
    def broken(self, path, local, **more):
        with open(local, "wb") as file:
            file.write(b"half")
        raise ConnectionError("gone\naway")

    monkeypatch.setattr(type(store), "get_file", broken)
    with pytest.raises(BadInput, match=r"'memory://bucket/train-0.tar' cannot be reached: ConnectionError: gone away"):
        opened(tmp_path, "memory://bucket/train-0.tar")
    assert not [path for path in (tmp_path / "cache" / "shards").iterdir() if path.suffix != ".lock"]
    monkeypatch.setattr(type(store), "get_file", lambda self, path, local, **more: open(local, "wb").close())
    with pytest.raises(BadInput, match="came incomplete: 0 of"):
        opened(tmp_path, "memory://bucket/train-0.tar")
    assert not [path for path in (tmp_path / "cache" / "shards").iterdir() if path.suffix != ".lock"]
    monkeypatch.undo()
    assert opened(tmp_path, "memory://bucket/train-0.tar").spec.num_train == 10
