"""Trees and zips of pictures in the shapes that people have them."""

import zipfile

import numpy as np
import PIL.Image
import pytest

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
