"""Bags of words: the baseline below every text encoder. `python finetune.py checkpoint=none transfer=tfidf datamodule=...`"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import MinLen
from sklearn.feature_extraction.text import TfidfVectorizer

from datamodules.contract import Task
from errors import BadInput
from models.encoder import Encoder
from ranges import Count, Positive
from transfer.linear import fit, make_model
from transfer.protocol import Bench, scores


@dataclass(frozen=True)
class TFIDF:
    """Logistic regression on tf-idf weights of words and pairs of words; the encoder is not looked at.

    Attributes:
        longest_ngram: in words.
        strengths: inverse L2 strengths to try; the best on the validation split is fitted again on both splits together.
        max_iter: of L-BFGS.
    """

    longest_ngram: Count = 2
    strengths: Annotated[tuple[Positive, ...], MinLen(1)] = (0.1, 1.0, 10.0, 100.0)
    max_iter: Count = 1000

    def __call__(self, encoder: Encoder, data: Task, bench: Bench) -> dict[str, float | str]:
        if data.modality != "text":
            raise BadInput(
                f"transfer=tfidf counts words, but '{data.spec.name}' is {data.modality}; fits: knn, linear, finetune"
            )
        train, val, test = ([" ".join(strings) for strings in data.splits[name].texts] for name in ("train", "val", "test"))
        train_labels, val_labels, labels = (data.splits[name].labels for name in ("train", "val", "test"))
        words = TfidfVectorizer(ngram_range=(1, self.longest_ngram))
        try:
            train_features = words.fit_transform(train)
        except ValueError as error:  # an empty vocabulary
            raise BadInput(
                f"transfer=tfidf finds no word of two or more letters in the training texts of '{data.spec.name}'"
            ) from error
        found = {}
        for strength in sorted(self.strengths):
            model = fit(make_model(strength, self.max_iter, data.spec, train_features.shape[1]), train_features, train_labels)
            found[strength] = scores(model.predict(words.transform(val)), val_labels, data.spec)[data.spec.selection]
        chosen = max(found, key=found.__getitem__)
        words = TfidfVectorizer(ngram_range=(1, self.longest_ngram))
        both, both_labels = words.fit_transform(train + val), np.concatenate([train_labels, val_labels])
        model = fit(make_model(chosen, self.max_iter, data.spec, both.shape[1]), both, both_labels)
        return scores(model.predict(words.transform(test)), labels, data.spec) | {
            f"val_{data.spec.selection}": found[chosen],
            "strength": chosen,
        }
