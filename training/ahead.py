"""Batches that are on a GPU before they are wanted."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from objectives.objective import Batch


class Ahead:
    """A loader's batches on a GPU, each copied while the step before it computes.

    Copies run beside kernels only from pinned memory and in a stream of their own.
    """

    def __init__(self, loader: Iterable[Batch], device: torch.device):
        self.loader, self.device = loader, device

    def __iter__(self) -> Iterator[Batch]:
        beside, ready = torch.cuda.Stream(self.device), None
        for batch in self.loader:
            with torch.cuda.stream(beside):
                coming = {name: self._copied(value) for name, value in batch.items()}
            if ready is not None:
                yield ready
            now = torch.cuda.current_stream(self.device)
            now.wait_stream(beside)
            for value in coming.values():
                value.record_stream(now)  # or its memory would be free for the next copy while kernels still read it
            ready = coming
        if ready is not None:
            yield ready

    def _copied(self, value: Tensor) -> Tensor:
        return value.pin_memory().to(self.device, non_blocking=True)
