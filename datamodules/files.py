"""Pictures as files: in a folder or in a .zip, addressed by number.

Members of a .zip are read in memory under the names that the archive has for them, whatever these look like; nothing is ever
unpacked.
"""

import lzma
import os
import struct
import warnings
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import IO

import PIL.Image
from PIL.Image import Image

warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # such pictures are refused below

DAMAGE = (
    OSError, EOFError, UnicodeDecodeError, NotImplementedError, RuntimeError, OverflowError, struct.error,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What a damaged, foreign or encrypted archive raises: zipfile and the decompressors have no error in common."""


def open_picture(file: str | IO[bytes], formats: tuple[str, ...] | None = None) -> Image:
    """A picture, of which only the header has been read.

    Args:
        formats: that it may have, in Pillow's names; by default all that Pillow knows.

    Raises:
        OSError: it claims more than Pillow's limit of 89 million pixels, a quarter of a gigabyte; or it is no picture.
    """
    try:
        picture = PIL.Image.open(file, formats=formats)
    except PIL.Image.DecompressionBombError as error:  # from twice the limit on; until then Pillow only warns
        raise OSError(f"too large to be decoded: {error}") from error
    if picture.width * picture.height > PIL.Image.MAX_IMAGE_PIXELS:
        raise OSError(f"too large to be decoded: {picture.width:,} x {picture.height:,} pixels")
    return picture


def open_members(root: str, names: tuple[str, ...]) -> "FolderMembers | ZipMembers":
    return FolderMembers(root, names) if os.path.isdir(root) else ZipMembers(root, names)


@dataclass(frozen=True)
class FolderMembers:
    """index -> the picture in that file of a folder."""

    root: str
    names: tuple[str, ...]

    def __call__(self, index: int) -> Image:
        return open_picture(os.path.join(self.root, self.names[index]))


@dataclass
class ZipMembers:
    """index -> the picture in that member of a zip; every process opens the archive for itself."""

    root: str
    names: tuple[str, ...]
    opened: dict[int, zipfile.ZipFile] = field(default_factory=dict, repr=False)

    def __call__(self, index: int) -> Image:
        process = os.getpid()
        if process not in self.opened:
            self.opened = {process: zipfile.ZipFile(self.root)}
        try:
            return open_picture(self.opened[process].open(self.names[index]))
        except DAMAGE as error:
            raise OSError(f"{self.names[index]}: {error}") from error

    def __getstate__(self) -> dict:
        return {"root": self.root, "names": self.names, "opened": {}}
