"""The index of a shard: what a tar can hold, what of it is used, and that it is made once."""

import io
import os
import shutil
import tarfile
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from made_shards import caption, picture, sample, tar

from datamodules import shard_index
from datamodules.shard_files import ShardFile
from datamodules.shard_index import BEHIND, CUT, IGNORED, WITHOUT_IMAGE, WITHOUT_TEXT, Index, index_of, scan
from datamodules.shard_sample import Fields
from errors import BadInput

FIELDS = Fields.of(image="png", text=["txt", "json.captions"], label="json.scene")


def scanned(path: Path, fields: Fields = FIELDS) -> Index:
    return scan(ShardFile(path.name, str(path)), fields)


def parts(index: Index, path: Path) -> list[bytes]:
    """The pictures, read at the offsets."""
    raw = path.read_bytes()
    return [raw[offset : offset + size] for offset, size in index.image.tolist()]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_offsets_are_those_of_the_members_in_every_kind_of_tar(tmp_path, kind):
    files = [(f"{'long/' * 30}é{name}", raw) for number in range(5) for name, raw in sample(number)]
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as archive:
        for name, raw in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))
    index = scanned(tmp_path / "a.tar")
    assert parts(index, tmp_path / "a.tar") == [picture(number) for number in range(5)]
    assert index.problems == {}
    assert index.extensions == {"png": 5, "json": 5}
    assert [index.label_names[label] for label in index.label] == ["desert", "forest", "river", "desert", "forest"]


def test_samples_are_neighbours_that_share_their_name_up_to_the_first_dot(tmp_path):
    files = [
        ("a/1.txt", b"one"), ("a/1.PNG", picture(1)), ("b/1.png", picture(2)), ("b/1.txt", b"two"),  # folders count
        ("2.png", picture(3)), ("2.png", picture(4)), ("2.txt", b"again"),  # the same name twice is a new sample
        ("3.png", picture(5)), ("4.png", picture(6)), ("3.txt", b"apart"), ("4.txt", b"apart"),
        ("./5.png", picture(7)), ("./5.mask.png", picture(8)), ("./5.txt", b"five"),
        ("c/6.png", picture(9)), ("d/6.txt", b"another folder"),
    ]  # fmt: skip
    tar(tmp_path / "a.tar", files)
    index = scanned(tmp_path / "a.tar")
    assert parts(index, tmp_path / "a.tar") == [picture(number) for number in (1, 2, 4, 7)]
    assert index.problems == {WITHOUT_TEXT: 4, WITHOUT_IMAGE: 3}


def test_links_devices_and_unsafe_names_are_ignored_and_counted(tmp_path):
    odd = []
    for name, kind in (("x.png", tarfile.SYMTYPE), ("y.png", tarfile.LNKTYPE), ("z.png", tarfile.FIFOTYPE)):
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc/passwd"
        odd.append(entry)
    folder = tarfile.TarInfo("folder.png")
    folder.type = tarfile.DIRTYPE
    names = ["../up.png", "/etc/abs.png", "a/../../b.png", "README", ".hidden"]
    tar(tmp_path / "a.tar", [*odd, folder, *((name, picture(9)) for name in names), *sample(1)])
    index = scanned(tmp_path / "a.tar")
    assert index.problems == {IGNORED: len(odd) + len(names)}
    assert parts(index, tmp_path / "a.tar") == [picture(1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar"]  # nothing is extracted


@pytest.mark.parametrize("where", ["in a picture", "in a header", "between members", "between samples", "before the end mark"])
def test_a_cut_shard_gives_its_whole_samples(tmp_path, where):
    path = tar(tmp_path / "a.tar", [file for number in range(6) for file in sample(number)])
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    fourth = members[6], members[7], members[8]  # picture and text of sample 3, picture of sample 4
    end, expected = {
        "in a picture": (fourth[0].offset_data + 20, 3),
        "in a header": (fourth[1].offset + 100, 3),
        "between members": (fourth[1].offset, 3),
        "between samples": (fourth[2].offset, 3),  # the last one may lack something: nobody knows
        "before the end mark": (archive.offset, 5),
    }[where]
    path.write_bytes(path.read_bytes()[:end])
    index = scanned(path)
    assert parts(index, path) == [picture(number) for number in range(expected)]
    assert index.problems == {CUT: 1}


def test_a_shard_damaged_in_the_middle_gives_what_comes_before(tmp_path):
    path = tar(tmp_path / "a.tar", [file for number in range(6) for file in sample(number)])
    with tarfile.open(path) as archive:
        at = archive.getmembers()[8].offset
    raw = bytearray(path.read_bytes())
    raw[at : at + 512] = os.urandom(512)
    path.write_bytes(raw)
    index = scanned(path)
    assert len(index.label) == 3
    assert index.problems == {CUT: 1}


def test_what_follows_the_end_of_a_tar_is_counted(tmp_path):
    first, second = (tar(tmp_path / f"{number}.tar", sample(number)) for number in range(2))
    (tmp_path / "both.tar").write_bytes(first.read_bytes() + second.read_bytes())
    index = scanned(tmp_path / "both.tar")
    assert parts(index, tmp_path / "both.tar") == [picture(0)]
    assert index.problems == {BEHIND: 1}
    (tmp_path / "padded.tar").write_bytes(first.read_bytes() + bytes(1 << 20))
    assert scanned(tmp_path / "padded.tar").problems == {}


def test_a_size_that_leads_back_ends_the_shard(tmp_path):
    path = tar(tmp_path / "a.tar", [file for number in range(3) for file in sample(number)])
    with tarfile.open(path) as archive:
        at = archive.getmembers()[4].offset
    raw = bytearray(path.read_bytes())
    raw[at + 124 : at + 136] = b"\xff" + (256**11 - 2048).to_bytes(11, "big")  # -2048
    raw[at + 148 : at + 156] = b"        "
    raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + 512])
    path.write_bytes(raw)
    index = scanned(path)
    assert len(index.label) == 1
    assert index.problems == {CUT: 1}


def test_a_shard_that_cannot_be_read_is_refused_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match=r"'a\.tar' or its index in the cache cannot be used: .*No such file"):
        index_of(ShardFile("a.tar", str(tmp_path / "a.tar")), FIELDS, str(tmp_path / "cache"))
    path = tar(tmp_path / "a.tar", sample(1))
    monkeypatch.setattr("numpy.savez", lambda *given, **more: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(BadInput, match="No space left on device"):
        index_of(ShardFile("a.tar", str(path)), FIELDS, str(tmp_path / "cache"))


def test_what_is_no_tar_is_refused_by_name(tmp_path):
    good = tar(tmp_path / "good.tar", sample(1))
    contents = {"text.tar": b"no tar at all " * 100, "empty.tar": b"", "short.tar": good.read_bytes()[:300]}
    for name, raw in contents.items():
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(BadInput, match=f"'{name}' is not a tar"):
            scanned(tmp_path / name)
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as archive:
        archive.add(good, "x.png")
    with pytest.raises(BadInput, match=r"'packed.tar.gz' is compressed.*unpack it"):
        scanned(tmp_path / "packed.tar.gz")


def test_an_index_is_made_once_and_anew_when_the_shard_or_the_fields_change(tmp_path, monkeypatch):
    path = tar(tmp_path / "a.tar", [file for number in range(3) for file in sample(number)])
    scans = []
    monkeypatch.setattr(shard_index, "scan", lambda *given: scans.append(given) or scan(*given))

    def opened(fields: Fields = FIELDS) -> Index:
        return index_of(ShardFile("a.tar", str(path)), fields, str(tmp_path / "cache"))

    first, again = opened(), opened()
    assert len(scans) == 1
    assert (first.image == again.image).all()
    assert first.label_names == again.label_names
    assert first.content == again.content
    opened(Fields.of(image="jpg", text=["txt", "json.captions"], label="json.scene"))
    assert len(scans) == 2
    tar(path, [file for number in range(4) for file in sample(number)])
    assert len(opened().label) == 4
    assert opened().content != first.content
    assert len(scans) == 3
    for file in (tmp_path / "cache").rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:100])
    assert len(opened().label) == 4  # a spoilt index is no index
    assert len(scans) == 4
    raw = path.read_bytes().replace(b"river", b"ocean")
    path.write_bytes(raw)  # as long as before
    os.utime(path, ns=(0, 10**9))
    assert "ocean" in opened().label_names
    assert len(scans) == 5
    moved = tmp_path / "b.tar"
    shutil.copy(path, moved)
    assert scanned(moved).content == opened().content


def slow_scan(path: str, cache: str, count) -> None:
    def counted(*given):
        with count.get_lock():
            count.value += 1
        time.sleep(0.3)
        return scan(*given)

    shard_index.scan = counted
    assert len(index_of(ShardFile("a.tar", path), FIELDS, cache).label) == 3


def test_of_two_processes_at_once_one_makes_the_index(tmp_path):
    path = tar(tmp_path / "a.tar", [file for number in range(3) for file in sample(number)])
    context = get_context("fork")
    count = context.Value("i", 0)
    both = [context.Process(target=slow_scan, args=(str(path), str(tmp_path / "cache"), count)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=60)
    assert [process.exitcode for process in both] == [0, 0]
    assert count.value == 1


def test_captions_come_from_the_first_field_that_has_any(tmp_path):
    tar(tmp_path / "a.tar", [("1.png", picture(1)), ("1.txt", b" "), sample(1)[1], ("2.png", picture(2)), ("2.txt", b"two")])
    raw = dict([("1.json", sample(1)[1][1])])
    files = [("1.png", picture(1)), ("1.txt", b" "), *raw.items(), ("2.png", picture(2)), ("2.txt", b"two")]
    tar(tmp_path / "a.tar", files)
    index = scanned(tmp_path / "a.tar")
    assert index.text_field.tolist() == [1, 0]
    assert caption(1).encode() in (tmp_path / "a.tar").read_bytes()[slice(*index.text[0].cumsum())]
