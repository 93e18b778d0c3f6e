"""How far processes give way to others: by session, as Linux shares out the processor, and by thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

#: How far a standby gives way to the processes that work: to a tenth of their share. There is one at a time, and
#: with less it would never be ready on a full machine.
STANDBY_NICENESS = 10
#: Of what is being restarted, while others work, where that may be asked for: its share is three
#: times that of an ordinary session.
URGENT_NICENESS = -5
#: The kernel takes a new niceness of a session ten times a second, from all users together.
_RETRY_S, _PATIENCE_S = 0.11, 2.0


async def set_session_niceness(pid: int, niceness: int) -> bool:
    """Set the niceness of a process's session, where the kernel shares out the processor between
    sessions first; ``nice`` says nothing between processes of different sessions there.

    Only what changes is written: everybody may raise and lower it down to 0, but the kernel
    takes few changes a second, so that it is tried again for two seconds. Who may not ask for
    less than 0 gets 0.

    Returns:
        Whether it is so now, or of no importance because this kernel has no such groups.
    """
    file = Path(f"/proc/{pid}/autogroup")
    give_up_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            if int(file.read_text(encoding="ascii").split()[-1]) == niceness:
                return True
            file.write_text(str(niceness), encoding="ascii")
            return True
        except FileNotFoundError:  # no such groups, or the process has ended
            return True
        except BlockingIOError:
            if time.monotonic() > give_up_s:
                return False
        except PermissionError:
            if niceness >= 0:
                return False
            niceness = 0
            continue
        except (OSError, ValueError, IndexError):
            return False
        await asyncio.sleep(_RETRY_S)


def set_threads_niceness(pid: int, niceness: int) -> None:
    """Let all threads of a process give way so far that do not give way or go first by themselves."""
    for thread in os.listdir(f"/proc/{pid}/task") if Path(f"/proc/{pid}/task").exists() else []:
        with contextlib.suppress(OSError):
            if os.getpriority(os.PRIO_PROCESS, int(thread)) == os.getpriority(os.PRIO_PROCESS, 0):
                os.setpriority(
                    os.PRIO_PROCESS,
                    int(thread),
                    min(19, os.getpriority(os.PRIO_PROCESS, 0) + niceness),
                )
