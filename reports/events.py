"""What a run wrote for TensorBoard: scalars, and the last pictures and texts."""

import base64
import io
import logging
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

LARGEST = 720  # px, the longer side of a picture on the page


@dataclass(frozen=True)
class Picture:
    """The last picture of a name: PNG as a data URI."""

    name: str
    step: int
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Text:
    """The last text of a name."""

    name: str
    step: int
    words: str


@dataclass
class Events:
    """Scalars: name -> [(step, value)], steps rising, the later of two records of one step."""

    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)


def read_events(folder: Path) -> Events:
    """The event files of a run; empty where there are none. A file that is cut is read as far as it goes."""
    if not folder.is_dir() or not any(folder.glob("events.out.tfevents.*")):
        return Events()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every end of a file, and of a cut one
    kept = {"scalars": 0, "images": 1, "tensors": 1}  # 0 is all; of what is not all the last is always kept
    files = EventAccumulator(str(folder), size_guidance=kept)
    files.Reload()
    tags, found = files.Tags(), Events()
    for name in sorted(tags["scalars"]):
        found.scalars[name] = sorted({event.step: event.value for event in files.Scalars(name)}.items())
    for name in sorted(tags["images"]):
        event = files.Images(name)[-1]
        found.pictures.append(_picture(name, event.step, event.encoded_image_string))
    for name in sorted(tags["tensors"]):
        event = files.Tensors(name)[-1]
        if name.endswith("/text_summary") and event.tensor_proto.string_val:
            words = event.tensor_proto.string_val[0].decode("utf-8", "replace")
            found.texts.append(Text(name.removesuffix("/text_summary"), event.step, words))
    return found


def _picture(name: str, step: int, encoded: bytes) -> Picture:
    """As it is, or smaller where it is larger than a page needs."""
    picture = Image.open(io.BytesIO(encoded))
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        encoded = buffer.getvalue()
    return Picture(name, step, "data:image/png;base64," + base64.b64encode(encoded).decode(), *picture.size)
