"""Tiny runs of every objective, as command-line words: for tests that start, stop, share out and damage them."""

import random
from pathlib import Path

from conf import choices_of, modality
from datamodules.spec import DataSpec
from models.classifier import Classifier
from models.export import save_encoder
from models.timm_encoder import TimmEncoder

PROSE = "the of and a to in he whale was that sea it his ship is with I as not for at by captain old so but they all"
WORDS = PROSE.split()


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
    data = ["model.depth=1", "datamodule=image_folder", f"datamodule.root={pictures}", "datamodule.batch_size=8"]
    taught = [f"objective.teacher={write_teacher(texts / 'teacher')}"] if objective.endswith("distillation") else []
    return [*data, *taught, *(f"objective.{setting}" for setting in SMALL_HEADS.get(objective, ()))]


def _of_texts(objective: str, pictures: Path, texts: Path) -> list[str]:
    if objective == "supervised_text":
        data = ["datamodule=text_classification", f"datamodule.root={texts}/task"]
        data += ["objective.dropout=0"]  # its draws are those of a rank, so they change with the number of ranks
    else:
        data = ["datamodule=text_files", f"datamodule.files={texts}/corpus/*.txt", "datamodule.block_length=32"]
        data += ["datamodule.num_sentinels=16"]
    model = SMALL_MODELS.get(objective, SMALL_TRANSFORMER)
    return [*model, *data, VOCABULARY, "datamodule.batch_size=8", f"datamodule.cache={texts}/cache"]


def _of_pairs(objective: str, pictures: Path, texts: Path) -> list[str]:
    table = texts / "pairs.csv"
    if not table.exists():
        paths = sorted((pictures / "train").rglob("*.png"))
        rows = [f"{path},{path.parent.name} {WORDS[i % 7]} {WORDS[i % 11]} number {i}" for i, path in enumerate(paths)]
        table.write_text("path,caption\n" + "\n".join(rows) + "\n")
    data = ["datamodule=pairs", f"datamodule.files={table}", "datamodule.batch_size=8", f"datamodule.cache={texts}/cache"]
    tower = [f"objective.text_settings.{setting.removeprefix('model.')}" for setting in SMALL_TRANSFORMER]
    return ["model.depth=1", *tower, *data, VOCABULARY]


VOCABULARY = "datamodule.tokenizer.vocab_size=200"
SMALL_TRANSFORMER = ["model.depth=1", "model.width=32", "model.heads=2", "model.feedforward=64"]
SMALL_MODELS = {
    "bidirectional_lm": ["model.depth=1", "model.width=32"],
    "skip_gram": ["model.width=32"],
    "cbow": ["model.width=32"],
}
SMALL_HEADS = {
    "moco_v2": ["queue_size=32", "projector_width=64"],
    "moco_v3": ["projector_width=64"],
    "byol": ["projector_width=64"],
    "triplet": ["projector_width=64"],
    "dino": ["num_prototypes=64", "head_width=64", "bottleneck_width=32", "num_local=2"],
}
_SMALLEST = {"image": _of_pictures, "text": _of_texts, "image_text": _of_pairs}
OBJECTIVES = choices_of("objective")
