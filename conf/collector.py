"""How often Python looks for garbage in cycles: rarely while a command imports what it needs, then as usual.

Nothing of what is imported is garbage. Looking through it again and again, as it grows to half a million objects, takes
about a tenth of the time from a command to its first step.
"""

import gc

USUAL = gc.get_threshold()
OBJECTS = 50_000  # that are made, and not freed, before Python looks at them


def collect_rarely() -> None:
    """For a command that begins."""
    gc.set_threshold(OBJECTS, *USUAL[1:])


def collect_as_usual() -> None:
    """Before steps, whose garbage holds activations."""
    gc.set_threshold(*USUAL)
