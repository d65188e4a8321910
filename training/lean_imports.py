"""Imports that Lightning brings along and nothing here uses: 4 of the 12 s from a command to its first step.

Lightning imports torchmetrics for the class `Metric`, and torchmetrics imports Matplotlib, SciPy, torchvision and transformers
wherever they are installed, for metrics and plots of its own.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError

NEEDLESS = ("matplotlib", "scipy", "torchvision", "transformers")


@contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Inside, packages that are not imported yet seem not to be installed, also to those who ask by lightning_utilities."""
    from lightning_utilities.core import imports

    packages = tuple(package for package in packages if package not in sys.modules)
    version = imports._version

    def version_of(package: str) -> str:
        if package in packages:
            raise PackageNotFoundError(package)
        return version(package)

    imports._version = version_of
    sys.modules.update(dict.fromkeys(packages))  # None is Python's own sign of a module that cannot be imported
    try:
        yield
    finally:
        imports._version = version
        for package in packages:
            del sys.modules[package]


def import_torchmetrics() -> None:
    """Before Lightning does; its metrics that need one of the hidden packages, and their plots, are then not to be had.

    Where one of them has been imported already, nothing is hidden: it may be asked for a part that needs another.
    """
    needless = () if any(package in sys.modules for package in NEEDLESS) else NEEDLESS
    with hidden(*needless):
        import torchmetrics  # noqa: F401
