"""Pictures as files: in a folder or in a .zip, addressed by number."""

import os
import zipfile
from dataclasses import dataclass, field

import PIL.Image
from PIL.Image import Image


def open_members(root: str, names: tuple[str, ...]) -> "FolderMembers | ZipMembers":
    return FolderMembers(root, names) if os.path.isdir(root) else ZipMembers(root, names)


@dataclass(frozen=True)
class FolderMembers:
    """index -> the picture in that file of a folder."""

    root: str
    names: tuple[str, ...]

    def __call__(self, index: int) -> Image:
        return PIL.Image.open(os.path.join(self.root, self.names[index]))


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
            return PIL.Image.open(self.opened[process].open(self.names[index]))
        except (zipfile.BadZipFile, zipfile.zlib.error) as error:
            raise OSError(f"{self.names[index]}: {error}") from error

    def __getstate__(self) -> dict:
        return {"root": self.root, "names": self.names, "opened": {}}
