"""A gripper that is closed, held or opened, of a robot whose driver knows openings.

An opening between 0 and 1 is hard to learn: what matters is whether the gripper closes now, and a policy that
is unsure opens it by half. With ``grippers: choices`` in a robot's file each gripper of its actions is a
categorical element: 0 closes, 1 holds what it has, 2 opens, as in HIL-SERL (Luo et al., "Precise and Dexterous
Robotic Manipulation via Human-in-the-Loop Reinforcement Learning", 2024). The other elements stay as they
are.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from user_core.body.action_groups import measured_opening
from user_core.errors import ConfigError, SpecError
from user_core.interfaces import Robot
from user_core.specs import Array, Arrays, RobotSpec
from user_core.types import Observation
from user_hal.topic_io import TopicIo, attach_topics

CLOSE, HOLD, OPEN = 0, 1, 2


class RobotWithGripperChoices(Robot):
    """Any robot with grippers in its actions, with a choice in place of each opening.

    A gripper that is held keeps the opening that was commanded last; after a reset, or a stop, the one that
    is measured, and open where nothing measures it.

    Args:
        robot: The robot.

    Raises:
        ConfigError: Its actions have no gripper, or the opening of one has no bounds.
    """

    def __init__(self, robot: Robot) -> None:
        self._robot, self._driver = robot, robot.spec
        self._spec = with_gripper_choices(self._driver)
        low, high = self._driver.action.low_array, self._driver.action.high_array
        self._range = [(float(low[i]), float(high[i])) for i in self._driver.grippers]
        self._held: list[float] | None = None
        self._executed: Array | None = None
        self._seen: Arrays = {}

    def __getattr__(self, name: str) -> Any:
        """What else a driver has: its mobility, its calibrations, what troubles it."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._robot, name)

    @property
    def spec(self) -> RobotSpec:
        """The robot's, with choices."""
        return self._spec

    def attach(self, io: TopicIo) -> None:
        """Hand topics to the robot, where it wants them."""
        attach_topics(self._robot, io)

    def connect(self) -> None:
        """Connect the robot."""
        self._held = None
        self._robot.connect()

    def read(self) -> Observation:
        """The robot's observation."""
        return self._shown(self._robot.read())

    def command(self, action: Array) -> Array:
        """Command the robot; returns what was really sent, with the choices.

        Raises:
            SpecError: Wrong shape or type, or an element that is none of its choices.
        """
        self._spec.action.check(action, "action")
        if self._held is None:
            self._held = self._measured()
        sent, held = action.copy(), list(self._held)
        for place, element in enumerate(self._driver.grippers):
            choice = int(action[element])
            if choice != HOLD:
                held[place] = self._range[place][1 if choice == OPEN else 0]
            sent[element] = held[place]
        executed = np.array(self._robot.command(sent))
        self._held = held
        grippers = list(self._driver.grippers)
        executed[grippers] = action[grippers]
        self._executed = executed
        return executed

    def stop(self) -> None:
        """Stop the robot, which holds its gripper."""
        self._robot.stop()
        self._held = None

    def reset(self, seed: int | None = None) -> Observation:
        """Reset the robot."""
        self._held = self._executed = None
        return self._shown(self._robot.reset(seed))

    def close(self) -> None:
        """Close the robot."""
        self._robot.close()

    def _shown(self, observation: Observation) -> Observation:
        """An observation in which the action that the driver tells has choices."""
        self._seen, applied = observation.arrays, observation.applied
        if applied is None:
            return observation
        if self._executed is None:
            return dataclasses.replace(observation, applied=None)
        applied = dataclasses.replace(applied, action=self._executed)
        return dataclasses.replace(observation, applied=applied)

    def _measured(self) -> list[float]:
        """Openings as they are, in the driver's numbers."""
        return [
            low
            + min(max(measured_opening(self._driver, place, self._seen), 0.0), 1.0) * (high - low)
            for place, (low, high) in enumerate(self._range)
        ]


def with_gripper_choices(spec: RobotSpec) -> RobotSpec:
    """The spec of a robot whose grippers are closed, held or opened.

    Raises:
        ConfigError: It has none, or the opening of one has no bounds.
    """
    action = spec.action
    if not spec.grippers or action.low is None or action.high is None:
        raise ConfigError(
            "grippers",
            got=f"choices, for actions of {spec.robot!r} with {len(spec.grippers)} grippers"
            f"{'' if action.high is not None else ' and no bounds'}",
            expected="a robot with a gripper in its actions, which has bounds",
            hint="Leave it out, or take a task or a contract in which the gripper moves",
        )
    low, high = action.low_array.astype(float), action.high_array.astype(float)
    grippers = list(spec.grippers)
    low[grippers], high[grippers] = CLOSE, OPEN
    chosen = sorted({*action.categorical, *grippers})
    held = dict(zip(action.categorical, spec.hold_choices)) | dict.fromkeys(grippers, HOLD)
    try:
        return dataclasses.replace(
            spec,
            action=dataclasses.replace(
                action,
                low=tuple(low.tolist()),
                high=tuple(high.tolist()),
                categorical=tuple(chosen),
            ),
            hold_choices=tuple(held[i] for i in chosen) if set(held) >= set(chosen) else (),
        )
    except SpecError as error:
        raise ConfigError("grippers", got="choices", expected=str(error)) from error
