"""The nearest neighbours of words by cosine, in the vectors that skip-gram or CBOW learned.

python train.py objective=skip_gram datamodule=text_files datamodule.files=<novels.zip>
python benchmarks/word_neighbours.py <run> [<word> ...]
"""

import argparse
import sys
from pathlib import Path

import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from errors import BadInput
from models.export import load_encoder
from models.word_vectors import WordVectors

WORDS = ("whale", "ship", "king", "queen", "father", "mother", "monday", "london", "seven", "eyes", "horse", "dead")


def neighbours(encoder: WordVectors, words: list[str], num: int = 6) -> list[tuple[str, list[tuple[str, float]]]]:
    """(word, its nearest whole words with their cosines) for each.

    Raises:
        BadInput: a word is no token of the vocabulary.
    """
    tokenizer = encoder.vocabulary.tokenizer
    ids = tokenizer.get_vocab()
    for word in words:
        if word not in ids:
            raise BadInput(f"'{word}' is no token of this vocabulary of {len(ids):,}")
    unit_VD = F.normalize(encoder.net.weight.detach().float(), dim=1)
    whole_V = encoder.ordinary_V.clone()
    for token, number in ids.items():
        whole_V[number] &= token.isalpha()
    found = []
    for word in words:
        cosine_V = (unit_VD @ unit_VD[ids[word]]).masked_fill(~whole_V, -2.0)
        cosine_V[ids[word]] = -2.0
        best = cosine_V.topk(num)
        names = tokenizer.convert_ids_to_tokens(best.indices.tolist())
        found.append((word, list(zip(names, best.values.tolist(), strict=True))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("words", nargs="*", default=WORDS)
    given = parser.parse_args()
    try:
        encoder = load_encoder(given.run)
        if not isinstance(encoder, WordVectors):
            raise BadInput(f"'{given.run}' holds no word vectors; objectives that learn them: skip_gram, cbow")
        table = Table("word", "nearest, cosine")
        for word, near in neighbours(encoder, list(given.words)):
            table.add_row(word, ", ".join(f"{name} {cosine:.2f}" for name, cosine in near))
    except BadInput as error:
        parser.error(str(error))
    Console().print(table)


if __name__ == "__main__":
    main()
