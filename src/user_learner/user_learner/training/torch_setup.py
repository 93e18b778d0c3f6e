"""How torch uses this process."""

from __future__ import annotations

import numpy as np


def configure_torch(threads: int) -> None:
    """Set up torch for the calling thread.

    Args:
        threads: Threads of one operation; 0 leaves it to torch. On a machine where robots,
            actors and a simulator want cores too, fewer are faster: the threads of an
            operation wait for each other in busy loops.
    """
    try:
        import torch
    except ImportError:  # an algorithm without torch
        return
    if threads:
        torch.set_num_threads(threads)
    # Moments of Adam that die away end as denormal numbers, which cost 100 cycles each. numpy
    # looks at its number types once, and would complain that it finds no denormals any more.
    for dtype in (np.float16, np.float32, np.float64):
        np.finfo(dtype).smallest_subnormal  # noqa: B018
    torch.set_flush_denormal(True)
