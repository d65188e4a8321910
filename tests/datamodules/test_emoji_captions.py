"""The embedded emoji with captions: the same splits as without, held-out ones described by words that training has."""

import pytest

from datamodules.emoji import Emoji, _plain
from datamodules.emoji_captions import EmojiCaptions
from errors import BadInput

TEMPLATES = ["{name}", "{name}, {subcategory}", "{category}: {name}"]
SMALL = {"kind": "wordpiece", "vocab_size": 1000}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> EmojiCaptions:
    return EmojiCaptions(SMALL, TEMPLATES, cache=str(tmp_path_factory.mktemp("cache")))


def test_pictures_splits_and_labels_are_those_of_emoji(data):
    plain = Emoji()
    assert data.task.spec == plain.spec
    for split, part in plain.splits.items():
        assert data.splits[split].pictures.load == part.load
        assert data.task.splits[split].labels.tolist() == part.labels.tolist()


def test_captions_are_the_filled_templates(data):
    captions = {
        _plain(name.removesuffix(".png")): texts
        for split in ("train", "val", "test")
        for name, texts in zip(data.splits[split].pictures.load.names, data.captions(split), strict=True)
    }
    assert captions["1f600"] == ("grinning face", "grinning face, face smiling", "smileys & emotion: grinning face")
    assert captions["1f32d"][1] == "hot dog, food prepared"
    train = {texts[0] for texts in data.captions("train")}
    toned = [text for text in train if text.endswith("skin tone")]
    assert len(toned) > 500
    assert captions["1f385-1f3fd"][0] == "father christmas, medium skin tone"
    assert any(text.endswith(", light skin tone, medium-dark skin tone") for text in toned)
    assert not any("skin tone" in texts[0] for texts in data.captions("test"))
    assert len({texts[0] for texts in data.captions("test")}) > 0.95 * data.splits["test"].num


def test_held_out_names_are_new_but_their_words_are_not(data):
    train, test = ({texts[0] for texts in data.captions(split)} for split in ("train", "test"))
    assert len(train & test) < 0.02 * len(test)  # a few different drawings share a name
    unknown = data.spec.vocabulary.tokenizer.unk_token_id
    ids = data.rows(sorted(test))["ids"]
    assert (ids == unknown).float().mean() < 0.01
    assert data.spec.block_length == 32
    assert ids.shape[1] <= 32


def test_text_encoders_are_judged_on_the_first_captions(data):
    task = data.caption_task
    assert (task.spec.name, task.modality, task.spec.class_names) == ("emoji_captions", "text", data.spec.class_names)
    assert task.spec.vocabulary is data.spec.vocabulary
    for split, part in data.splits.items():
        assert [texts for (texts,) in task.splits[split].texts] == [texts[0] for texts in data.captions(split)]
        assert task.splits[split].labels.tolist() == part.labels.tolist()
    batch = next(iter(task.evaluation_loader("test", 3)))
    assert batch["ids"].shape == batch["present"].shape
    assert batch["label"].shape == (3,)


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        (["{nam}"], r"'\{nam\}' has a place 'nam'; did you mean name\?"),
        (["{name.__class__}"], "has a place 'name.__class__'"),
        (["{name"], "cannot be filled"),
        (["{}"], "has a place ''"),
        ([], "must be a list of captions"),
        ("{name}", "must be a list of captions"),
    ],
)
def test_templates_that_cannot_be_filled_are_refused(templates, message):
    with pytest.raises(BadInput, match=message):
        EmojiCaptions(SMALL, templates)
