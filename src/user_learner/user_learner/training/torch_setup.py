"""How torch uses this process."""

from __future__ import annotations


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
    torch.set_flush_denormal(True)  # moments of Adam that die away would cost 100 cycles each
