"""Python's garbage collector, kept out of work that makes very many objects, all of which stay.

Of 100 000 rules it would walk the million objects again and again while they are made (2.5 s of CPU time instead of
1.7 s), and later for a quarter of a second at a time, with every request waiting. Objects set aside here are still
freed when the last reference goes; only what is a cycle at that moment stays for ever: little, and once per reload.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MANY: Final = 100_000  # objects made and kept; below that a collection is too short to matter


def settle() -> None:
    """What is there now stays, and is not looked at any more: a full collection then walks what requests made, and not
    also the modules and rooms of a whole server (200 ms in the middle of a storm, with every request waiting).
    """
    gc.freeze()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Collect nothing inside, where nothing may wait; what was made is not looked at any more, if it is much."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > MANY:
            gc.freeze()
        if was_enabled:
            gc.enable()
