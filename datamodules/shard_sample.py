"""What is in a sample of a shard: its members by extension, and where in them picture, text and label are."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from datamodules.corpus import clean
from datamodules.text_sources import decode

Member = tuple[int, int]
"""(offset in the tar, size), in bytes."""


@dataclass(frozen=True)
class Fields:
    """Where in a sample its parts are: the extension of a member ("jpg"), or a field of a JSON member ("json.captions").

    Of several the first that a sample has is taken. None means that the part is not wanted; image and text are necessary
    where they are wanted, a label is not.
    """

    image: tuple[str, ...] | None = None
    text: tuple[str, ...] | None = None
    label: tuple[str, ...] | None = None

    @classmethod
    def of(cls, **names: str | Sequence[str] | None) -> "Fields":
        """As settings give them: a name, or several."""
        return cls(**{part: (given,) if isinstance(given, str) else tuple(given) for part, given in names.items() if given})


@dataclass
class Sample:
    """The members of a sample by extension, read when they are asked for."""

    members: dict[str, Member]
    read: Callable[[Member], bytes]
    problems: Counter
    opened: dict[str, object] = field(default_factory=dict)

    def member(self, extensions: tuple[str, ...] | None) -> Member | None:
        return next((self.members[extension] for extension in extensions or () if extension in self.members), None)

    def text(self, names: tuple[str, ...] | None) -> tuple[Member | None, int, list[str] | None]:
        """(where, which of the fields, the strings there); None for no strings, [] where they are empty."""
        empty = None
        for number, name in enumerate(names or ()):
            value = self._value(name)
            strings = strings_of(value, self.problems)
            if strings:
                return self.members[parts_of(name)[0]], number, strings
            empty = empty if value is None else []
        return None, 0, empty

    def label(self, names: tuple[str, ...] | None) -> str | None:
        values = (self._value(name) for name in names or ())
        written = (str(value).strip() for value in values if isinstance(value, str | int))
        return next((label for label in written if label), None)

    def _value(self, name: str) -> object:
        extension, path = parts_of(name)
        if extension not in self.members:
            return None
        if extension not in self.opened:
            self.opened[extension] = decoded(self.read(self.members[extension]), extension, self.problems)
        return at_path(self.opened[extension], path)


def parts_of(name: str) -> tuple[str, list[str]]:
    """(extension of the member, path in its JSON): "json.meta.caption" is ("json", ["meta", "caption"])."""
    before, json_, path = name.partition("json.")
    return (before + "json", path.split(".")) if json_ else (name, [])


def decoded(raw: bytes, extension: str, problems: Counter) -> object:
    """What a member says: text, or of .json the object. Raises ValueError where it is none."""
    text = decode(raw, problems).removeprefix("\ufeff")
    return json.loads(text) if extension.endswith("json") else text


def at_path(value: object, path: list[str]) -> object:
    """None where there is nothing."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def strings_of(value: object, problems: Counter) -> list[str]:
    """A text or a list of them, without the empty ones."""
    values = value if isinstance(value, list) else [value]
    cleaned = (clean(text, problems)[0].strip() for text in values if isinstance(text, str))
    return [text for text in cleaned if text]
