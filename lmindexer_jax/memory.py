"""Keeping freed memory for the next step, instead of giving it back to the system and asking for it again."""

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h) and what they are set to.
_MALLOPT = {
    -8: 1,  # M_ARENA_MAX: one heap for all threads, so that what one frees another finds
    -4: 0,  # M_MMAP_MAX: no block of its own from the system, however large
    -1: -1,  # M_TRIM_THRESHOLD: give the top of the heap back never; the largest int would mean above two gigabytes
    -2: 2**28,  # M_TOP_PAD: ask for 256 MB at a time
}


def keep_freed() -> bool:
    """Ask glibc's malloc to hold on to freed memory; call it before work starts.

    A compiled step takes its temporaries, often a gigabyte, from malloc and frees them at its end. By default each such
    block comes fresh from the system, and the system clears every page of it anew: a fifth of a training step's time
    on a CPU. The price is that the process never shrinks.

    Returns:
      whether it was done; False, and nothing changed, on a system without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(parameter, value) == 1 for parameter, value in _MALLOPT.items()])
