"""One run that a plan needs."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """One record to make: by a command of its own, or in a sweep of transfers of one encoder.

    Attributes:
        label: what a person calls it.
        script: "train" or "finetune".
        words: of the command line, without where it runs; of transfers also without protocol and label fraction.
        folder: where its result is or will be.
        after: the job that must be finished before, because its encoder or its tokenizer is used.
        protocol, fraction: of a transfer.
        found: whether it was finished when the plan was made.
    """

    label: str
    script: str
    words: tuple[str, ...]
    folder: Path
    after: "Job | None" = None
    protocol: str = ""
    fraction: float = 1.0
    found: bool = False
