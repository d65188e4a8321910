"""Zero-shot classification (Radford et al. 2021, section 3.1): a picture's class is the one whose prompts are nearest.

Shapes: N pictures, C classes, P prompts a class, E embedding width.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from datamodules.contract import Task
from errors import BadInput
from models.pair import Pair, unit
from transfer.features import embed_pictures, embed_texts
from transfer.protocol import Bench, scores
from transfer.ranking import best_ranks, chance_of_recall


@dataclass(frozen=True)
class ZeroShot:
    """No label is learned from; the prompts are part of the score and stand in the result.

    Attributes:
        templates: prompts, in which {} is the name of the class.

    Raises:
        BadInput: no template, one without {}, or two classes of one name.
    """

    templates: tuple[str, ...]
    takes: ClassVar[str] = "pair"
    metric: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        without = [template for template in self.templates if "{}" not in template]
        if without or not self.templates:
            raise BadInput(f"transfer.templates must be prompts with {{}} for the name of the class, not {without}")

    def __call__(self, pair: Pair, data: Task, bench: Bench) -> dict[str, float | str]:
        names = [name.replace("_", " ") for name in data.spec.class_names]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise BadInput(f"data set '{data.spec.name}' has two classes called '{twice[0]}', which no prompt tells apart")
        class_CE = self.classifier(pair, names, bench.precision)
        image_NE, label_N, _ = embed_pictures(pair, data, "test", bench.trainer["workers"], bench.precision)
        similarity_NC = image_NE @ class_CE.T
        rank_N = best_ranks(similarity_NC, label_N[:, None] == torch.arange(len(names)))
        one = np.ones(1, int)
        return scores(similarity_NC.argmax(1).numpy(), label_N.numpy(), data.spec) | {
            "top_5": float((rank_N <= 5).float().mean()),
            "chance_accuracy": chance_of_recall(one, len(names), 1),
            "chance_top_5": chance_of_recall(one, len(names), 5),
            "majority": float(torch.bincount(label_N).max() / len(label_N)),
        }

    def classifier(self, pair: Pair, names: list[str], precision: str = "fp32") -> Tensor:
        """(C, E) unit vectors: each prompt normalised, averaged over the prompts of a class, normalised again."""
        prompts = [template.replace("{}", name) for name in names for template in self.templates]
        prompt_CPE = embed_texts(pair, prompts, precision).unflatten(0, (len(names), len(self.templates)))
        return unit(prompt_CPE.mean(1))
