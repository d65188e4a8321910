"""Imports that libraries bring along and nothing here uses: a third of the time from a command to its first step.

Lightning imports torchmetrics for the class `Metric`, and torchmetrics imports Matplotlib, SciPy, torchvision and transformers
wherever they are installed, for metrics and plots of its own. transformers imports SciPy and torchvision with every model, for
losses of object detection. (timm's layers need torchvision.)
"""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError
from types import ModuleType

NEEDLESS = {
    "torchmetrics": ("matplotlib", "scipy", "torchvision", "transformers"),
    "transformers": ("scipy", "torchvision"),
}


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


class TransformersAlone(MetaPathFinder):
    """Finds transformers, which then does without what is needless for it as long as this process lasts.

    It looks for that once, when it is first imported, which an objective may or may not do.
    """

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "transformers":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_alone(module: ModuleType) -> None:
            with hidden(*NEEDLESS[name]):
                execute(module)

        spec.loader.exec_module = execute_alone
        return spec


def import_lean() -> None:
    """torchmetrics before Lightning imports it, and transformers whenever it is imported first.

    What they do only with a hidden package is then not to be had. Where one that is needless for torchmetrics has been imported
    already, nothing is hidden from it: it may be asked for a part that needs another.
    """
    sys.meta_path.insert(0, TransformersAlone())
    needless = NEEDLESS["torchmetrics"]
    with hidden(*(() if any(package in sys.modules for package in needless) else needless)):
        import torchmetrics  # noqa: F401
