"""Tiny runs of every objective, as command-line words: for tests that start, stop, share out and damage them."""

import random
from pathlib import Path

from conf import choices_of
from datamodules.spec import DataSpec
from models.classifier import Classifier
from models.export import save_encoder
from models.timm_encoder import TimmEncoder
from training.fitting import modality

PROSE = "the of and a to in he whale was that sea it his ship is with I as not for at by captain old so but they all"
WORDS = PROSE.split()
SMALL_TEXT = ["model.depth=1", "model.width=32", "model.heads=2", "model.feedforward=64", "datamodule.tokenizer.vocab_size=200"]


def write_texts(folder: Path) -> Path:
    """corpus/*.txt, 24 documents; task/train.tsv, val.tsv and test.tsv, two classes."""
    chance = random.Random(0)
    (folder / "corpus").mkdir(parents=True)
    (folder / "task").mkdir()
    for number in range(24):
        (folder / "corpus" / f"{number:02}.txt").write_text(" ".join(chance.choices(WORDS, k=200)) + ".")
    for split, num in (("train", 41), ("val", 13), ("test", 13)):
        rows = [
            " ".join(chance.choices(WORDS[number % 2 :: 2], k=chance.randint(3, 30))) + f"\t{'even' if number % 2 else 'odd'}"
            for number in range(num)
        ]
        (folder / "task" / f"{split}.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    return folder


def words_for(objective: str, pictures: Path, texts: Path) -> list[str]:
    """What to type for the smallest sensible run of an objective."""
    return [f"objective={objective}", *_SMALLEST[modality("objective", objective)](objective, pictures, texts)]


def write_teacher(folder: Path) -> Path:
    """A supervised run on 32 px, as far as it is learned from."""
    if not folder.exists():
        spec = DataSpec("pictures", "image", 10, 32, 3, ("red", "green", "blue"))
        encoder = TimmEncoder(spec, "vit_tiny_patch16_224", depth=1)
        folder.mkdir()
        save_encoder(encoder, folder)
        save_encoder(Classifier(encoder.width, spec.class_names), folder, "classifier")
    return folder


def _of_pictures(objective: str, pictures: Path, texts: Path) -> list[str]:
    taught = [f"objective.teacher={write_teacher(texts / 'teacher')}"] if objective.endswith("distillation") else []
    return ["model.depth=1", "datamodule=image_folder", f"datamodule.root={pictures}", "datamodule.batch_size=8", *taught]


def _of_texts(objective: str, pictures: Path, texts: Path) -> list[str]:
    if objective == "supervised_text":
        data = ["datamodule=text_classification", f"datamodule.root={texts}/task"]
        data += ["objective.dropout=0"]  # its draws are those of a rank, so they change with the number of ranks
    else:
        data = ["datamodule=text_files", f"datamodule.files={texts}/corpus/*.txt", "datamodule.block_length=32"]
        data += ["datamodule.num_sentinels=16"]
    return [*SMALL_TEXT, *data, "datamodule.batch_size=8", f"datamodule.cache={texts}/cache"]


_SMALLEST = {"image": _of_pictures, "text": _of_texts}
OBJECTIVES = [name for name in choices_of("objective") if modality("objective", name) in _SMALLEST]
