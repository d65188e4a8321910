"""Which files a setting means: a path, a glob, or all that a folder or a .zip holds.

What is hidden is nobody's data: names with a leading dot, which a glob's * leaves out too (._x.png of macOS,
.ipynb_checkpoints), and the folder __MACOSX that macOS puts into a .zip.
"""

import glob
import os
import zipfile
from pathlib import Path, PurePosixPath


def matching(pattern: str) -> list[str]:
    """What a path or a glob means, sorted; a path that exists is meant as it is written, whatever characters it has.

    A path without magic characters is returned whether it exists or not; of what a glob finds, the files.
    """
    path = os.path.expanduser(pattern)
    if os.path.exists(path) or not glob.has_magic(path):
        return [path]
    return sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))


def hidden(name: str) -> bool:
    """Whether a relative path leads to what is hidden."""
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in PurePosixPath(name).parts)


def names_in(root: str) -> list[str]:
    """Relative paths, with forward slashes, of the files in a folder, links followed, or in a .zip; without hidden ones.

    Raises:
        One of `DAMAGE` where a file is no .zip that can be read.
    """
    if os.path.isdir(root):
        return _names_below(root)
    with zipfile.ZipFile(root) as archive:
        return [name for name in archive.namelist() if not name.endswith("/") and not hidden(name)]


def _names_below(root: str) -> list[str]:
    names = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not (hidden(name) or _leads_back(os.path.join(folder, name)))]
        paths = [Path(folder, name) for name in files if not hidden(name)]
        names += [path.relative_to(root).as_posix() for path in paths if path.is_file()]
    return names


def _leads_back(folder: str) -> bool:
    """Whether it is a link to a folder that it is in, so that following it would never end."""
    if not os.path.islink(folder):
        return False
    target = os.path.realpath(folder)
    return os.path.commonpath([target, os.path.realpath(os.path.dirname(folder))]) == target
