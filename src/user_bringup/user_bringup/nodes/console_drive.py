"""The place from which a person at the console drives a robot: a teleoperation device in the ROS graph."""

from __future__ import annotations

import threading
import time

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from user_comm import topics
from user_comm.converters import Intervention, intervention_to_message, observation_from_message
from user_comm.lost_messages import LostMessages
from user_comm.subscriptions import CheckedSubscription, let_go
from user_comm.topics import interface_class, profile
from user_core.errors import SuiteError
from user_core.interfaces import TeleopCommand
from user_core.specs import RobotSpec
from user_core.types import Observation
from user_hal.teleops.browser import BrowserConfig, BrowserInput, BrowserTeleop

#: How long a person who leaves waits for an observation, to answer it with "I do not drive".
_LAST_WORD_S = 0.2
#: Answers between observations are at least this far apart: a page that says much costs no more than this.
_ANEW_S = 0.01


class Drive:
    """A person's device for one robot: answers each observation of it with an intervention, while it is open.

    When the person does something, the newest observation is answered anew and at once: waiting for the next one
    would cost half a control period on average. Of what follows within 10 ms, the last is answered at the end of these;
    that he lets go does not wait.

    Args:
        node: Has its topics.
        namespace: Of the robot.
        spec: Of the robot.
        config: Of the device.
        device: Its name, in interventions.

    Attributes:
        teleop: Takes what the page says.
        sent: Observations that were answered so far.
        engaged: Whether the person drives.
    """

    def __init__(
        self,
        node: Node,
        namespace: str,
        spec: RobotSpec,
        config: BrowserConfig,
        device: str,
    ) -> None:
        self._node, self._spec, self._device = node, spec, device
        self.teleop = BrowserTeleop(config)
        self.teleop.connect(spec)
        self.sent, self.engaged = 0, False
        self._heard = threading.Event()
        self._lock = threading.Lock()  # one answer at a time, in the order in which they are made
        self._newest: Observation | None = None
        self._newest_s = self._anew_s = 0.0
        self._later: threading.Timer | None = None
        self._input: tuple[object, ...] = ()
        topic = topics.INTERVENTION
        self._publisher = node.create_publisher(
            interface_class(topic.type),
            f"{namespace}/{topic.name}",
            profile(topic.quality),
            publisher_class=LostMessages().publisher_class,
        )
        observed = topics.OBSERVATION
        self._subscription = CheckedSubscription(
            node,
            f"{namespace}/{observed.name}",
            interface_class(observed.type),
            lambda message: observation_from_message(message, specs=spec.observation),
            self._on_observation,
            QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
        )

    def __enter__(self) -> Drive:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def say(self, label: str, wait_s: float = 3.0) -> None:
        """Give a verdict with the next observation; raises SuiteError where none comes."""
        self.teleop.label(label)
        before = self.sent
        end_s = time.monotonic() + wait_s
        while self.sent == before and time.monotonic() < end_s:
            self._heard.wait(0.05)
        if self.sent == before:
            raise SuiteError("the robot", got="no observation", expected="one to answer")
        time.sleep(0.1)  # reliable, but the publisher must live until it is out

    def take(self, said: BrowserInput) -> None:
        """What the page says; any thread."""
        with self._lock:
            if not self.teleop.take(said):
                return  # it came too late, and does not count
            before, self._input = self._input, (said.axes, said.held)
            if self._input == before and not said.acts:
                return
            left_s = self._anew_s + _ANEW_S - time.monotonic()
            lets_go = self.engaged and not said.held
            if left_s <= 0 or lets_go:
                self._forget_later()
                self._answer_anew()
                return
            if self._later is not None:
                return  # what waits will take this along
            self._later = threading.Timer(left_s, self._answer_later)
            self._later.daemon = True
            self._later.start()

    def _answer_later(self) -> None:
        with self._lock:
            if self._later is not None:
                self._later = None
                self._answer_anew()

    def _on_observation(self, observation: Observation) -> None:
        with self._lock:
            self._newest, self._newest_s = observation, time.monotonic()
            self._forget_later()  # this takes it along
            self._answer(observation, self.teleop.read(observation))
        self.sent += 1
        self._heard.set()

    def _answer_anew(self) -> None:
        """Answer the newest observation once more; one of before a pause says nothing of where the robot is."""
        newest, now_s = self._newest, time.monotonic()
        if newest is not None and now_s - self._newest_s < 2 * self._spec.period_s:
            self._anew_s = now_s
            self._answer(newest, self.teleop.read_again(newest))

    def _forget_later(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def _answer(self, observation: Observation, command: TeleopCommand) -> None:
        self.engaged = command.engaged
        self._publisher.publish(
            intervention_to_message(
                Intervention(
                    command=command,
                    device=self._device,
                    observation_sequence=observation.sequence,
                    frame_id=self._spec.action.frame,
                )
            )
        )

    def close(self) -> None:
        """Let go, and leave: not before the robot was told so, if it is there."""
        with self._lock:
            self.teleop.let_go()
            self._forget_later()
            self._answer_anew()
        self._heard.clear()
        self._heard.wait(_LAST_WORD_S)
        self._subscription.destroy()
        node, publisher = self._node, self._publisher
        let_go(node, lambda: node.destroy_publisher(publisher))
        self.teleop.close()
