"""How often Python looks for garbage in cycles: hardly while a command imports what it needs, then as usual.

Nothing of what is imported is garbage. Looking through it again and again, as it grows to 700,000 objects, takes a tenth of
the time from a command to its first step, and a third of a second among the steps.
"""

import atexit
import gc

USUAL = gc.get_threshold()
OBJECTS = 1_000_000  # that are made, and not freed, before Python looks at them


def collect_rarely() -> None:
    """For a command that begins."""
    gc.set_threshold(OBJECTS, *USUAL[1:])


def collect_as_usual() -> None:
    """Before steps, whose garbage holds activations; what was there before the first of them is not looked at again."""
    if not gc.get_freeze_count():  # later on it would keep what another run of this process left behind
        gc.freeze()
        atexit.register(gc.unfreeze)  # or nanobind, of Triton, would report as leaked what the end of the process frees
    gc.set_threshold(*USUAL)
