"""In which order the processes of a deployment come up and go down."""

from __future__ import annotations

from collections.abc import Sequence

from user_core.errors import ConfigError
from user_fleet.deployment.model import ProcessSpec


def start_order(processes: Sequence[ProcessSpec]) -> list[ProcessSpec]:
    """Processes sorted so that each comes after what it depends on; ties by ``order``.

    Raises:
        ConfigError: Processes depend on each other in a circle; names it.
    """
    waiting = sorted(processes, key=lambda process: process.order)
    present = {process.name for process in processes}
    ready: list[ProcessSpec] = []
    names: set[str] = set()
    while waiting:
        for process in waiting:
            if names.issuperset(present.intersection(process.depends_on)):
                ready.append(process)
                names.add(process.name)
                waiting.remove(process)
                break
        else:
            circle = [process.name for process in waiting]
            raise ConfigError(
                "depends_on", got=f"a circle among {circle}", expected="an order to start in"
            )
    return ready


def stop_order(processes: Sequence[ProcessSpec]) -> list[ProcessSpec]:
    """The reverse of :func:`start_order`."""
    return start_order(processes)[::-1]
