"""Tiny runs of every objective, as command-line words: for tests that start, stop, share out and damage them."""

import random
from functools import partial
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import nn
from transformers import PreTrainedTokenizerFast

from conf import CONF, choices_of, class_of, modality, read_choice
from datamodules.spec import DataSpec
from datamodules.vocabulary import Vocabulary
from models.classifier import Classifier
from models.export import save_encoder
from models.text_encoder import TextEncoder
from models.timm_encoder import TimmEncoder
from objectives.autoencoder import Autoencoder
from objectives.codebook import Codebook
from objectives.corruption import Nothing

PROSE = "the of and a to in he whale was that sea it his ship is with I as not for at by captain old so but they all"
WORDS = PROSE.split()
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


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
    words = [f"objective={objective}", *small_model(objective), *given_runs(objective, texts)]
    words += [f"objective.{setting}" for setting in SMALL_HEADS.get(objective, ())]
    return [*words, *_DATA[modality("objective", objective)](objective, pictures, texts)]


def small_model(objective: str) -> list[str]:
    """Words that make the models of an objective small, whatever they have that can be made small."""
    config = yaml.safe_load((CONF / "objective" / f"{objective}.yaml").read_text())
    model = next(default["override /model"] for default in config["defaults"] if "override /model" in default)
    shape = {"depth": 1, "width": 32, "heads": 2, "feedforward": 64}
    settings = {"model.": read_choice("model", model), "objective.text_settings.": config["objective"].get("text_settings", {})}
    return [f"{place}{key}={shape[key]}" for place, node in settings.items() for key in shape if key in node]


def given_runs(objective: str, folder: Path) -> list[str]:
    """Words for the runs that an objective learns from, which are written into a folder."""
    missing = [key for key, value in read_choice("objective", objective).items() if value == "???"]
    words = [f"objective.{key}={WRITTEN[key](folder / key)}" for key in missing]
    if class_of("objective", objective).keeps_encoder:
        words.append(f"model.pretrained={write_teacher(folder / 'teacher')}/encoder.safetensors")
    return words + ([f"datamodule.tokenizer.path={folder}/text"] if "text" in missing else [])


def write_teacher(folder: Path) -> Path:
    """A supervised run on 32 px, as far as it is learned from."""
    if not folder.exists():
        torch.manual_seed(0)
        spec = DataSpec("pictures", "image", 10, 32, 3, ("red", "green", "blue"))
        encoder = TimmEncoder(spec, "vit_tiny_patch16_224", depth=1)
        folder.mkdir()
        save_encoder(encoder, folder)
        classifier = Classifier(encoder.width, spec.class_names)
        nn.init.normal_(classifier.weight)  # logits that differ: what a student is wrong about must not be rounding errors
        save_encoder(classifier, folder, "classifier")
    return folder


def write_tokenizer(folder: Path, num_codes: int = 12) -> Path:
    """A run that learned a codebook, on 32 px, as far as pictures are tokenised by it."""
    if not folder.exists():
        torch.manual_seed(0)
        spec = DataSpec("pictures", "image", 10, 32, 3)
        encoder = TimmEncoder(spec, "vit_tiny_patch16_224", depth=1)
        bottleneck = partial(Codebook, num_codes=num_codes, width=4)
        tokenizer = Autoencoder(encoder, spec, Nothing(), bottleneck, decoder_width=16)
        folder.mkdir()
        for name, part in tokenizer.exports().items():
            save_encoder(part, folder, name)
    return folder


def write_language_model(folder: Path) -> Path:
    """A causal language model with a vocabulary of words."""
    if not folder.exists():
        torch.manual_seed(0)
        tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate((*SPECIAL.values(), *WORDS))}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = BertPreTokenizer()
        vocabulary = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL))
        spec = DataSpec("words", "text", 10, block_length=32, vocabulary=vocabulary)
        folder.mkdir()
        save_encoder(TextEncoder(spec, "gpt2", width=32, depth=2, heads=2, feedforward=64), folder)
    return folder


def _of_pictures(objective: str, pictures: Path, texts: Path) -> list[str]:
    return ["datamodule=image_folder", f"datamodule.root={pictures}", "datamodule.batch_size=8"]


def _of_texts(objective: str, pictures: Path, texts: Path) -> list[str]:
    if objective == "supervised_text":
        data = ["datamodule=text_classification", f"datamodule.root={texts}/task"]
        data += ["objective.dropout=0"]  # its draws are those of a rank, so they change with the number of ranks
    else:
        data = ["datamodule=text_files", f"datamodule.files={texts}/corpus/*.txt", "datamodule.block_length=32"]
        data += ["datamodule.num_sentinels=16"]
    return [*data, VOCABULARY, "datamodule.batch_size=8", f"datamodule.cache={texts}/cache"]


def _of_pairs(objective: str, pictures: Path, texts: Path) -> list[str]:
    table = texts / "pairs.csv"
    if not table.exists():
        paths = sorted((pictures / "train").rglob("*.png"))
        rows = [f"{path},{path.parent.name} {WORDS[i % 7]} {WORDS[i % 11]} number {i}" for i, path in enumerate(paths)]
        table.write_text("path,caption\n" + "\n".join(rows) + "\n")
    data = ["datamodule=pairs", f"datamodule.files={table}", "datamodule.batch_size=8", f"datamodule.cache={texts}/cache"]
    return [*data, VOCABULARY]


VOCABULARY = "datamodule.tokenizer.vocab_size=200"
SMALL_HEADS = {
    "moco_v2": ["queue_size=32", "projector_width=64"],
    "moco_v3": ["projector_width=64"],
    "byol": ["projector_width=64"],
    "triplet": ["projector_width=64"],
    "captioning": ["decoder_depth=1", "decoder_width=32"],
    "dino": ["num_prototypes=64", "head_width=64", "bottleneck_width=32", "num_local=2"],
}
WRITTEN = {"teacher": write_teacher, "tokenizer": write_tokenizer, "text": write_language_model}  # settings that name a run
_DATA = {"image": _of_pictures, "text": _of_texts, "image_text": _of_pairs}
OBJECTIVES = choices_of("objective")
