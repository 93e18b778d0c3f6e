"""Node ``teleop``: what a person wants, as ``intervention`` messages.

It never commands a robot: the actor decides whether a person drives, and the hal whether the
command may pass.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack

from user_comm import topics
from user_comm.converters import Intervention, RobotDescription
from user_comm.diagnostics import Level
from user_comm.lifecycle import LifecycleNode
from user_comm.logs import bridge_logging
from user_comm.run import run
from user_comm.topic_io import RosTopicIo
from user_core.errors import SpecError, SuiteError
from user_core.interfaces import Teleop
from user_core.specs import RobotSpec, check_arrays
from user_core.types import Observation
from user_hal.node_configs import TeleopConfig
from user_hal.robot_file import refuse_old_spelling
from user_hal.topic_io import attach_topics

_RETRY_S = 1.0
_REPORT_S = 0.5


class TeleopNode(LifecycleNode):
    """Reads a device once per observation, and answers each with an intervention.

    It waits for ``robot_spec``, connects the device for that robot, and connects it again when
    it went away.
    """

    Config = TeleopConfig

    def configure(self, stack: ExitStack) -> None:
        """Make the device; it is opened when the robot is known."""
        stack.callback(bridge_logging(self.get_logger(), "user_hal"))
        refuse_old_spelling(self._parameter_overrides, "teleop")
        config = self.config
        self._teleop: Teleop = config.teleop.build("teleops", path="teleop")
        topic_io = RosTopicIo(self)
        stack.callback(topic_io.close)
        attach_topics(self._teleop, topic_io)
        self._device = config.device or config.teleop.plugin
        self._scripted = bool(getattr(self._teleop, "scripted", False))
        self._spec: RobotSpec | None = None
        self._connected = False
        self._retry_s = 0.0
        self._interventions = self.advertise(topics.INTERVENTION)
        self.listen(topics.ROBOT_SPEC, self._on_spec, always=True)
        self.listen(topics.OBSERVATION, self._on_observation)
        self.every(_REPORT_S, self._report)
        self._wait("robot_spec of a robot")

    def activate(self, stack: ExitStack) -> None:
        """Open the device, or as soon as the robot is known."""
        stack.callback(self._disconnect)
        if self._spec is not None:
            self._connect(self._spec)

    def _on_spec(self, description: RobotDescription) -> None:
        if description.spec == self._spec:
            return
        self._spec = description.spec
        if self.is_active:
            self._disconnect()
            self._connect(description.spec)

    def _on_observation(self, observation: Observation) -> None:
        spec = self._spec
        if spec is None or not self._is_ready(spec):
            return
        try:
            check_arrays(observation.arrays, spec.observation)
            command = self._teleop.read(observation)
        except SpecError as error:  # of the robot before: the new spec is on its way
            self.get_logger().warning(f"observation: {error}", throttle_duration_sec=5.0)
            return
        except SuiteError as error:
            self._lost(error)
            return
        self._interventions.publish(
            Intervention(
                command=command,
                device=self._device,
                scripted=self._scripted,
                observation_sequence=observation.sequence,
                frame_id=spec.action.frame,
            )
        )

    def _is_ready(self, spec: RobotSpec) -> bool:
        """Whether the device is connected; tries to, now and then, when it is not."""
        if self._connected or time.monotonic() < self._retry_s:
            return self._connected
        return self._connect(spec)

    def _connect(self, spec: RobotSpec) -> bool:
        try:
            self._teleop.connect(spec)
        except SuiteError as error:
            self._lost(error)
            return False
        self._connected = True
        self._report()
        return True

    def _report(self) -> None:
        """Say whether the open device is heard, and why not."""
        if not self._connected:
            return
        reason = self._teleop.trouble()
        if reason:
            text = f"{self._device}: {reason.code}: {reason}"
            self.diagnostics.report("device", Level.WARN, text)
        else:
            self.diagnostics.report("device", Level.OK, f"{self._device} is connected")

    def _disconnect(self) -> None:
        self._connected = False
        self._teleop.close()

    def _lost(self, error: SuiteError) -> None:
        """The device failed: no person drives, and it is tried again after a while."""
        self._disconnect()
        self._retry_s = time.monotonic() + _RETRY_S
        self.diagnostics.report("device", Level.ERROR, f"{error.code}: {error}")
        self.get_logger().error(f"{error}", throttle_duration_sec=5.0)

    def _wait(self, what: str) -> None:
        self.diagnostics.report("device", Level.WARN, f"waits for {what}")


def main() -> int:
    """Run the node."""
    return run(TeleopNode, "teleop")


if __name__ == "__main__":
    sys.exit(main())
