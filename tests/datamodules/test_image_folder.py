"""Trees and zips of pictures in the shapes that people have them."""

import zipfile

import numpy as np
import PIL.Image
import pytest
from torchvision import datasets

from datamodules.image_folder import ImageFolder
from errors import BadInput


def fill(root, names, size=(40, 30)):
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", size, (i, 0, 0)).save(path)
    return root


CLASSES = [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(10)]


@pytest.mark.parametrize(
    "names",
    [CLASSES, [f"train/{name}" for name in CLASSES] + ["test/cat/a.png", "test/dog/b.png"], [f"archive/{n}" for n in CLASSES]],
    ids=["classes", "splits", "one folder around"],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_labels_come_from_the_folders_above_the_pictures(tmp_path, names, zipped):
    root = fill(tmp_path / "tree", names)
    if zipped:
        with zipfile.ZipFile(tmp_path / "tree.zip", "w") as archive:
            for path in sorted(root.rglob("*.png")):
                archive.write(path, path.relative_to(root))
        root = tmp_path / "tree.zip"
    data = ImageFolder(str(root), batch_size=4)
    assert data.spec.class_names == ("cat", "dog")
    assert data.spec.image_size == 30
    assert sum(split.num for split in data.splits.values()) == len(names)
    if names[0].startswith("train"):
        assert data.splits["test"].num == 2


def test_zip_workers_open_the_archive_for_themselves(tmp_path):
    root = fill(tmp_path / "tree", CLASSES)
    with zipfile.ZipFile(tmp_path / "tree.zip", "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, path.relative_to(root))
    data = ImageFolder(str(tmp_path / "tree.zip"), batch_size=4)
    expected = [batch["views"] for batch in data.train_loader(None, 0, num_batches=4)]
    found = [batch["views"] for batch in data.train_loader(None, 0, num_batches=4, workers=2)]
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_pictures_without_folders_have_no_labels(tmp_path):
    data = ImageFolder(str(fill(tmp_path, [f"{i}.png" for i in range(12)])), batch_size=4)
    assert data.spec.num_classes == 0
    assert data.splits["train"].labels is None


def test_what_cannot_be_used_is_said_in_one_line(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        ImageFolder(str(tmp_path / "nothing"))
    with pytest.raises(BadInput, match="holds no pictures"):
        ImageFolder(str(tmp_path))
    (tmp_path / "broken.zip").write_bytes(b"PK not a zip")
    with pytest.raises(BadInput, match=r"neither a folder nor a readable \.zip"):
        ImageFolder(str(tmp_path / "broken.zip"))
    fill(tmp_path / "strange", [f"train/{name}" for name in CLASSES] + ["test/bird/a.png"])
    with pytest.raises(BadInput, match="class 'bird' .* has no training pictures"):
        ImageFolder(str(tmp_path / "strange"), batch_size=2)


def numbers(data: ImageFolder) -> tuple:
    return {split: part.num for split, part in data.splits.items()}, data.spec.class_names


SPLITS = [f"data/{split}/{label}/{i}.png" for split in ("train", "test") for label in ("cat", "dog") for i in range(6)]


def test_what_macos_and_notebooks_leave_behind_is_no_data(tmp_path):
    root = fill(tmp_path / "tree", SPLITS)
    expected = numbers(ImageFolder(str(root), batch_size=2))
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
        for name in SPLITS:
            archive.write(root / name, name)
            folder, _, file = name.rpartition("/")
            archive.writestr(f"__MACOSX/{folder}/._{file}", b"\0\5\x16\7Mac OS X")
    assert numbers(ImageFolder(str(tmp_path / "mac.zip"), batch_size=2)) == expected
    fill(root, ["data/train/.ipynb_checkpoints/0-checkpoint.png", "data/test/cat/._0.png"])
    assert numbers(ImageFolder(str(root), batch_size=2)) == expected


def test_links_are_followed_but_not_in_circles(tmp_path):
    root = fill(tmp_path / "tree", SPLITS)
    (tmp_path / "splits").mkdir()
    for split in ("train", "test"):
        (tmp_path / "splits" / split).symlink_to(root / "data" / split)
    expected = numbers(ImageFolder(str(root), batch_size=2))
    assert numbers(ImageFolder(str(tmp_path / "splits"), batch_size=2)) == expected
    (root / "data" / "train" / "cat" / "up").symlink_to(root / "data")
    assert numbers(ImageFolder(str(root), batch_size=2)) == expected
    (tmp_path / "classes").mkdir()
    for label in ("cat", "dog"):
        (tmp_path / "classes" / label).symlink_to(root / "data" / "test" / label)
    found = ImageFolder(str(tmp_path / "classes"), batch_size=2)
    theirs = datasets.ImageFolder(str(tmp_path / "classes"))
    assert found.spec.class_names == tuple(theirs.classes)
    assert sum(part.num for part in found.splits.values()) == len(theirs)


def test_pictures_that_cost_the_others_their_labels_are_named(tmp_path, caplog):
    root = fill(tmp_path / "a", [*CLASSES, "montage.png"])
    assert ImageFolder(str(root), batch_size=2).splits["train"].labels is None
    assert "1 pictures lie in no class folder, among them 'montage.png', so the labels of all are left out" in caplog.text
    caplog.clear()
    split = fill(tmp_path / "b", [f"train/{name}" for name in CLASSES] + ["train/montage.png"])
    assert ImageFolder(str(split), batch_size=2).splits["train"].labels is None
    assert "among them 'train/montage.png'" in caplog.text
    caplog.clear()
    assert ImageFolder(str(fill(tmp_path / "c", CLASSES)), batch_size=2).spec.num_classes == 2
    assert not caplog.text


def test_pictures_outside_the_folders_of_splits_are_named(tmp_path, caplog):
    root = fill(tmp_path, [f"{top}/{label}/{i}.png" for top in ("train", "unlabelled") for label in "ab" for i in range(4)])
    assert sum(part.num for part in ImageFolder(str(root), batch_size=2).splits.values()) == 8
    assert "8 pictures in no folder of a split are left out, among them 'unlabelled/a/0.png'" in caplog.text


def test_the_home_folder_may_be_written_short(tmp_path, monkeypatch):
    fill(tmp_path / "pics", CLASSES)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ImageFolder("~/pics", batch_size=2).spec.class_names == ("cat", "dog")
