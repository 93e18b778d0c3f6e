"""The simulated tasks, found by name."""

from __future__ import annotations

from user_core.errors import ConfigError
from user_hal.sim.tasks.peg_insertion import PegInsertion
from user_hal.sim.tasks.pick_place import PickPlace
from user_hal.sim.tasks.reach import Reach
from user_hal.sim.tasks.task import Task

TASKS: dict[str, type[Task]] = {task.name: task for task in (Reach, PickPlace, PegInsertion)}


def task_named(
    name: str, calibration_noise_m: float | None = None, goal_radius_m: float | None = None
) -> Task:
    """Make the task of this name; ConfigError lists those there are.

    Args:
        name: One of :data:`TASKS`.
        calibration_noise_m: For ``peg_insertion``: see there; the others have none.
        goal_radius_m: For ``reach``, likewise.
    """
    if name not in TASKS:
        raise ConfigError("name of a simulated task", got=name, expected=f"one of {sorted(TASKS)}")
    if name == PegInsertion.name and calibration_noise_m is not None:
        return PegInsertion(calibration_noise_m)
    if name == Reach.name and goal_radius_m is not None:
        return Reach(goal_radius_m)
    return TASKS[name]()


__all__ = ["TASKS", "PegInsertion", "PickPlace", "Reach", "Task", "task_named"]
