"""Pictures as batches: splits, colours, corrupt files, and no trace of the number of workers."""

import io

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import pytest
import torch

from datamodules.files import open_picture
from datamodules.image_folder import ImageFolder
from datamodules.images import batches, carve, stratified
from datamodules.samples import EvaluationView, Pictures, Samples, to_channels
from datamodules.splits import complete
from errors import BadInput
from objectives.views import Crops


def test_splits_are_disjoint_fixed_and_stratified(data, pictures):
    again = ImageFolder(str(pictures), batch_size=8, val_fraction=0.25)
    assert (data.splits["train"].num, data.splits["val"].num, data.splits["test"].num) == (54, 18, 24)
    chosen = {split: data.splits[split].load.indices.tolist() for split in ("train", "val")}
    assert chosen == {split: again.splits[split].load.indices.tolist() for split in ("train", "val")}
    assert not set(chosen["train"]) & set(chosen["val"])
    assert np.bincount(data.splits["val"].labels).tolist() == [6, 6, 6]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_do_not_depend_on_workers(data, workers):
    loader = data.train_loader(Crops(32, num=2), seed=3, num_batches=8, workers=workers)
    reference = data.train_loader(Crops(32, num=2), seed=3, num_batches=8)
    for batch, expected in zip(loader, reference, strict=True):
        assert batch["views"].shape == (8, 2, 3, 32, 32)
        assert batch["views"].dtype == torch.uint8
        assert all(torch.equal(batch[key], expected[key]) for key in batch)


def test_evaluation_takes_each_picture_once_and_labels_match(data):
    seen = torch.cat([batch["index"] for batch in data.evaluation_loader("test")])
    assert seen.tolist() == list(range(24))
    batch = next(iter(data.evaluation_loader("test")))
    brightest = batch["views"][:, 0].float().mean((2, 3)).argmax(1)  # red, green, blue
    names = [data.spec.class_names[label] for label in batch["label"]]
    assert [("red", "green", "blue")[channel] for channel in brightest] == names


def test_corrupt_pictures_are_replaced_in_training_and_left_out_of_evaluation(tmp_path, caplog):
    for split, num in (("train", 6), ("val", 4), ("test", 4)):
        for i in range(num):
            folder = tmp_path / split / f"class{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            PIL.Image.new("RGB", (32, 32), (40 * i, 0, 0)).save(folder / f"{i}.jpg")
    for split in ("train", "test"):
        cut = tmp_path / split / "class0" / "0.jpg"
        cut.write_bytes(cut.read_bytes()[:300])
    (tmp_path / "test" / "class1" / "1.jpg").write_bytes(b"")
    data = ImageFolder(str(tmp_path), image_size=32, batch_size=2)
    epoch = list(data.train_loader(None, 0, num_batches=3))
    assert [len(batch["index"]) for batch in epoch] == [2, 2, 2]
    assert sum(int(batch["corrupt"]) for batch in epoch) == 1
    assert sum(len(batch["index"]) for batch in batches(data.evaluation_loader("test"))) == 2
    assert "corrupt picture" in caplog.text


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I;16", "I", "F"])
def test_every_kind_of_picture_becomes_rgb_or_grey(mode):
    array = np.full((8, 8), 200, np.uint8)
    if mode == "I;16":
        picture = PIL.Image.fromarray(array.astype(np.uint16) * 257)
    elif mode == "I":
        picture = PIL.Image.fromarray(array.astype(np.int32) * 257)
    else:
        picture = PIL.Image.fromarray(array).convert(mode)
    assert to_channels(picture, 3).mode == "RGB"
    assert to_channels(picture, 1).mode == "L"
    if mode not in ("1", "CMYK"):
        assert abs(int(np.asarray(to_channels(picture, 1))[0, 0]) - 200) <= 2


def test_transparency_is_laid_on_white():
    picture = PIL.Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert np.asarray(to_channels(picture, 3)).min() == 255


def stored(picture: PIL.Image.Image, kind: str, **facts) -> PIL.Image.Image:
    file = io.BytesIO()
    picture.save(file, kind, **facts)
    return open_picture(file)


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(("mode", "clear"), [("RGB", (0, 0, 0)), ("L", 0), ("1", 0), ("P", 0)])
def test_a_transparent_colour_is_laid_on_white(mode, clear):
    picture = PIL.Image.fromarray(np.where(RAMP < 128, 0, 255).astype(np.uint8)).convert(mode)
    found = to_channels(stored(picture, "PNG", transparency=clear), 3)
    assert np.asarray(found).min() == 255


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.int32, 1), (np.int32, 257), (np.float32, 1 / 255), (np.float32, 1), (np.float32, 257)]
)
def test_the_white_of_32_bits_is_found(dtype, scale):
    picture = PIL.Image.fromarray((RAMP.astype(np.float64) * scale).astype(dtype))
    assert np.array_equal(to_channels(stored(picture, "TIFF"), 1), RAMP)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_photographs_are_upright(kind, orientation):
    picture = PIL.Image.fromarray(RAMP[:8].repeat(4, 0).repeat(4, 1))
    exif = picture.getexif()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    expected = PIL.ImageOps.exif_transpose(stored(picture, kind, exif=exif))
    loaded = stored(picture, kind, exif=exif)
    loaded.load()
    for found in (stored(picture, kind, exif=exif), loaded):
        assert np.array_equal(to_channels(found, 1), expected.convert("L"))


def test_unreadable_notes_of_a_camera_cost_nothing():
    picture = PIL.Image.fromarray(RAMP)
    assert np.array_equal(to_channels(stored(picture, "PNG", exif=b"no exif at all"), 1), RAMP)


def test_stratified_shares_are_nested_and_keep_every_class():
    labels = np.repeat([0, 1, 2], [100, 10, 1])
    small, large = stratified(labels, 0.1, 0), stratified(labels, 0.5, 0)
    assert set(small) <= set(large)
    assert np.bincount(labels[small]).tolist() == [10, 1, 1]


@pytest.mark.parametrize("fraction", [0.1, 0.8])
def test_rare_classes_keep_a_training_sample(fraction):
    labels = np.repeat([0, 1, 2, 3], [50, 2, 1, 3])[np.random.default_rng(0).permutation(56)]
    splits = complete({"train": Pictures(lambda i: i, 56, labels)}, fraction, 0, "rare")
    assert sum(part.num for part in splits.values()) == 56
    counts = {split: np.bincount(part.labels, minlength=4) for split, part in splits.items()}
    assert (counts["train"] > 0).all()
    assert sum(counts.values()).tolist() == [50, 2, 1, 3]
    assert counts["test"][:2].tolist() == [round(fraction * 50), 1]


@pytest.mark.parametrize("labels", [np.repeat([0, 1], [30, 20]), np.linspace(0, 5, 50, dtype=np.float32), np.arange(50), None])
def test_of_ordinary_data_the_plain_share_is_carved(labels):
    stays, carved = carve(Pictures(lambda i: i, 50, labels), 0.2, 3, "ordinary")
    share = stratified(np.zeros(50, int) if labels is None else labels, 0.2, 3)
    share = share[:25] if len(share) == 50 else share  # one sample a class
    assert carved.load.indices.tolist() == share.tolist()
    assert stays.load.indices.tolist() == np.setdiff1d(np.arange(50), share).tolist()


def test_label_fraction_reduces_training_and_validation_labels_only(data):
    few = data.with_label_fraction(0.2, seed=0)
    assert few.splits["train"].num < data.splits["train"].num
    assert few.splits["test"].num == data.splits["test"].num
    assert few.splits["val"].num < data.splits["val"].num
    assert data.spec.num_train == 54  # the original is untouched


@pytest.mark.parametrize("size", [0, 55])
def test_a_batch_that_does_not_fit_the_data_is_refused(pictures, size):
    with pytest.raises(BadInput, match=f"batch_size={size} does not fit: .* 54 training pictures"):
        ImageFolder(str(pictures), batch_size=size, val_fraction=0.25)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(BadInput, match="val_fraction"):
        carve(Pictures(lambda i: None, 10), fraction, 0, "tiny")


@pytest.mark.parametrize(("num", "from_file", "times"), [(3, True, 1), (20_000, True, 2), (3, False, 2)])
def test_pictures_of_a_split_that_fits_are_decoded_once(tmp_path, num, from_file, times):
    PIL.Image.new("RGBA", (64, 64), "teal").save(tmp_path / "one.png")
    loaded = []

    def load(index: int) -> PIL.Image.Image:
        loaded.append(index)
        picture = open_picture(str(tmp_path / "one.png"))
        return picture if from_file else PIL.Image.fromarray(np.asarray(picture))

    samples = Samples(Pictures(load, num), 3, EvaluationView(32), 0, substitute=True)
    first, again = (samples.__getitems__([(0, 1), (0, 2)])["views"] for _ in range(2))
    assert torch.equal(first, again)
    assert loaded == [1, 2] * times
