"""Names that tell apart what is different: two tests, models or pre-trainings of one name never share a cell of the table.

Records name a test by its data set and protocol, and an encoder by its objective and model. Where results of one comparison
share such a name and not what is behind it (two folders of pictures, two numbers of neighbours, two depths), the difference
is added to the name. What a record of an earlier version does not say tells nothing apart.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reports.result import Result

KINDS = {  # of a name -> where a test's record says what tells it apart
    "data": "data_settings",
    "protocol": "settings",
    "model": "model_settings",
    "pretraining": "pretraining_settings",
}
LONGEST = 32  # characters of a setting in a name


def told_apart(results: Sequence[Result]) -> list[Result]:
    """The results, each with `transfer["apart"]`: kind of name -> what is added to it; see `reports.scores`."""
    apart = _by_pretraining(results, _by_settings(results))
    return [
        replace(result, transfer=result.transfer | {"apart": words}) if words else result
        for result, words in zip(results, apart, strict=True)
    ]


def _by_settings(results: Sequence[Result]) -> list[dict[str, str]]:
    """For each result: kind of name -> the settings in which not all results of that name agree."""
    apart: list[dict[str, str]] = [{} for _ in results]
    for kind, settings in KINDS.items():
        named: dict[str, list[int]] = {}
        for i, result in enumerate(results):
            named.setdefault(_name(result, kind), []).append(i)
        for members in named.values():
            words = _differences([results[i].transfer.get(settings) or {} for i in members])
            for i, word in zip(members, words, strict=True):
                apart[i] |= {kind: word} if word else {}
    return apart


def _by_pretraining(results: Sequence[Result], apart: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Where encoders of one name that learned from different data meet on a test, the objective says from which.

    Elsewhere, as in a plan whose every test has its own pre-training, the data would be said for nothing.
    """
    learned_from: dict[tuple, set[tuple]] = {}
    for result, words in zip(results, apart, strict=True):
        learned_from.setdefault(_encoder_and_test(result, words), set()).add((result.data, words.get("pretraining")))
    several = {encoder for (encoder, _), data in learned_from.items() if len(data) > 1}
    told = []
    for result, words in zip(results, apart, strict=True):
        more, words = words.get("pretraining", ""), {kind: word for kind, word in words.items() if kind != "pretraining"}
        if result.objective != "random" and _encoder_and_test(result, words)[0] in several:
            words["objective"] = f"on {result.data} {more}".rstrip()
        told.append(words)
    return told


def _name(result: Result, kind: str) -> str:
    return {"model": result.model, "pretraining": result.data}.get(kind) or result.transfer[kind]


def _encoder_and_test(result: Result, words: dict[str, str]) -> tuple[tuple, tuple]:
    transfer = result.transfer
    test = transfer["data"], words.get("data"), transfer["protocol"], words.get("protocol"), transfer["label_fraction"]
    return (result.objective, result.model, words.get("model")), test


def _differences(settings: Sequence[dict[str, Any]]) -> list[str]:
    """For each "k=3, temperature=0.1": its own of the settings in which not all of those agree that have them."""
    keys = sorted({key for own in settings for key in own})
    names = {key: _names([own[key] for own in settings if key in own]) for key in keys}
    differ = [key for key in keys if len(names[key]) > 1]
    return [", ".join(f"{key}={names[key][_text(own[key])]}" for key in differ if key in own) for own in settings]


def _names(values: Iterable[Any]) -> dict[str, str]:
    """Value -> its short name: of paths the last part, and of what is long the beginning, as long as that tells them apart."""
    whole = {_text(value): value for value in values}
    for name in (_last_part, _text):
        short = {text: name(value) for text, value in whole.items()}
        cut = {text: word if len(word) <= LONGEST else f"{word[:LONGEST]}…" for text, word in short.items()}
        for candidates in (cut, short):
            if len(set(candidates.values())) == len(candidates):
                return candidates
    return short


def _last_part(value: Any) -> str:
    return Path(value).name if isinstance(value, str) and value else _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
