"""Twemoji with captions: the pictures and splits of `emoji`, described by name, category and subcategory.

About 1,900 concepts are few enough to be learned by heart: a demonstration, no evidence. What held-out emoji share with
the training ones is words ("face", "clock", "flag") and categories.
"""

import string
from collections.abc import Sequence

from datamodules.emoji import Drawing, check_level, collect, pictures_of
from datamodules.image_text import Captioned, ImageTextData
from datamodules.vocabulary import Vocabulary
from errors import BadInput, nearest
from ranges import Count, OpenShare, Seed

PLACES = ("name", "category", "subcategory")


class EmojiCaptions(ImageTextData):
    """The embedded default for pictures with text.

    Args:
        templates: of captions, with {name}, {category} and {subcategory}; each emoji has one caption a template.
        label, skin_tones, test_fraction, root: as in `Emoji`.
    Other arguments as in `ImageTextData`.
    """

    def __init__(
        self,
        tokenizer: dict | Vocabulary,
        templates: Sequence[str] = ("{name}",),
        image_size: Count | None = None,
        batch_size: Count = 32,
        max_length: Count = 32,
        fixed_length: bool = False,
        val_fraction: OpenShare = 0.1,
        test_fraction: OpenShare = 0.3,
        split_seed: Seed = 0,
        label: str = "category",
        skin_tones: bool = True,
        root: str | None = None,
        cache: str | None = None,
    ):
        check_level(label)
        check_templates(templates)
        folder, parts = collect(root, val_fraction, test_fraction, split_seed, skin_tones)
        pictures, class_names = pictures_of(folder, parts, label)
        splits = {
            split: Captioned.listed(pictures[split], [captions_of(drawing, templates) for drawing in part])
            for split, part in parts.items()
        }
        super().__init__(
            "emoji_captions",
            splits,
            class_names,
            tokenizer,
            image_size or 72,
            batch_size,
            max_length,
            fixed_length,
            val_fraction,
            split_seed,
            task_name="emoji",
            cache=cache,
        )


def captions_of(drawing: Drawing, templates: Sequence[str]) -> tuple[str, ...]:
    """One a template, in lower case."""
    category, subcategory = drawing.category.lower(), drawing.subcategory.replace("-", " ")
    return tuple(template.format(name=drawing.name, category=category, subcategory=subcategory) for template in templates)


def check_templates(templates: Sequence[str]) -> None:
    """Raises BadInput where one has other places than those that can be filled, or where there are none."""
    if not templates or isinstance(templates, str):
        raise BadInput("datamodule.templates must be a list of captions such as ['{name}', '{name}, {category}']")
    for template in templates:
        try:
            places = [place for _, place, *_ in string.Formatter().parse(template) if place is not None]
        except ValueError as error:
            raise BadInput(f"datamodule.templates: '{template}' cannot be filled: {error}") from error
        strange = next((place for place in places if place not in PLACES), None)
        if strange is not None:
            raise BadInput(f"datamodule.templates: '{template}' has a place '{strange}'; {nearest(strange, PLACES)}")
