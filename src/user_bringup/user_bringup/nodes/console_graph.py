"""What the console needs of a ROS graph: robots, cameras and services, and what opens a place to drive.

Nothing is subscribed to that nobody looks at.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.context import Context
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from user_bringup.nodes.console_arms import Arms, ArmState
from user_bringup.nodes.console_drive import Drive
from user_bringup.nodes.graph_node import Attention, GraphNode
from user_comm import topics
from user_comm.cdr import CdrLimits
from user_comm.converters import (
    RobotDescription,
    robot_description_from_message,
)
from user_comm.services import ask
from user_comm.subscriptions import BesideExecutor, CheckedSubscription, decode_bytes, let_go
from user_comm.topics import interface_class, profile
from user_core.errors import SuiteError, TransportError
from user_hal.teleops.browser import BrowserConfig

_TRIGGER = "std_srvs/srv/Trigger"
#: How often robots, cameras and services are looked for, while somebody looks at a page.
_LOOK_S = 1.0
#: DDS drops an answer that is ready before both ends know each other.
_ATTEMPTS, _ANSWER_S = 3, 2.0
#: After this they do.
_KNOWN_S = 0.3
#: An image waits for a page that was away no longer than this.
_LONGEST_S = 3600.0
#: What starts a node anew, in this order; it need not have been up.
_RESTART = {
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
}
_UP, _TRANSITION_S = ("configure", "activate"), 60.0
_NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
_BGR = {"rgb8": cv2.COLOR_RGB2BGR, "rgba8": cv2.COLOR_RGBA2BGR, "bgra8": cv2.COLOR_BGRA2BGR}
_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
_DEPTHS = {"16UC1": np.uint16, "mono16": np.uint16, "32FC1": np.float32}
_IMAGE_LIMITS = CdrLimits()


@dataclass(frozen=True)
class Answer:
    """What a service answered."""

    ok: bool
    text: str


@dataclass
class CameraView:
    """A camera that somebody looks at.

    Attributes:
        topic: Its topic.
        data: The newest message that was taken, serialised; None before the first.
        received_s: When it came, monotonic.
        node: That has the subscription to it.
        subscription: The subscription.
    """

    topic: str
    node: Any = None
    data: bytes | None = None
    received_s: float = 0.0
    subscription: Any = None


@dataclass
class RobotView:
    """A robot in the graph.

    Attributes:
        namespace: Of its topics, as ``/robot0``.
        cameras: Topics of its cameras, by name.
        services: Full names of services, by the last word: ``emergency_stop``, ``go``.
        description: What it said of itself; None before.
    """

    namespace: str
    cameras: dict[str, str] = field(default_factory=dict)
    services: dict[str, str] = field(default_factory=dict)
    description: RobotDescription | None = None

    @property
    def name(self) -> str:
        """For people."""
        return self.namespace.strip("/") or "robot"


class ConsoleGraph(GraphNode):
    """A node in a thread of its own, in one ROS domain. A context manager; its methods may be called from any
    thread.

    Args:
        domain: The ROS domain; None: that of the environment.
        context: Of another node of this process in that domain; None: one of its own.
        camera_rate_hz: How often images are shown, at most.
    """

    def __init__(
        self,
        domain: int | None = None,
        context: Context | None = None,
        camera_rate_hz: float = topics.CONSOLE_HZ,
    ) -> None:
        name = topics.CONSOLE_NODE + ("_often" if camera_rate_hz > topics.CONSOLE_HZ else "")
        super().__init__(name, _LOOK_S, domain, context, Attention())
        self._lock = threading.RLock()
        self.robots: dict[str, RobotView] = {}
        self.managers: list[str] = []
        self.learners: dict[str, str] = {}
        self._specs: dict[str, CheckedSubscription] = {}
        self._stops: dict[str, Any] = {}
        self._seldom: Any = None

    def __exit__(self, *ended: object) -> None:
        if self._seldom is not None:
            with suppress(Exception):  # the context may have ended already
                self._seldom.destroy_node()
        super().__exit__(*ended)

    def begin(self) -> None:
        """Robots are drawn from what its node hears."""
        self._arms = Arms(self.node)

    # --- what there is --------------------------------------------------------------------

    def attend(self) -> None:
        """Somebody looks at a page; call it at least every two seconds while he does. Any thread."""
        if self._attention.pay():
            self.look_at_once()

    def look(self) -> None:
        """Find robots, cameras and services; those that went are forgotten."""
        self._arms.forget()
        services = self.node.get_service_names_and_types()
        triggers = [name for name, kinds in services if _TRIGGER in kinds]
        by_namespace: dict[str, dict[str, str]] = {}
        managers, learners = [], {}
        for name in triggers:
            owner, _, word = name.rpartition("/")
            namespace, _, node = owner.rpartition("/")
            if word in ("pause", "resume") and node.startswith("lifecycle_manager"):
                managers.append(owner)
            elif word == "checkpoint":
                learners[owner] = name
            else:
                by_namespace.setdefault(namespace, {})[word] = name
        with self._lock:
            self.managers, self.learners = sorted(set(managers)), learners
            found = {
                n: RobotView(n, services=words)
                for n, words in by_namespace.items()
                if "emergency_stop" in words
            }
            for topic, kinds in self.node.get_topic_names_and_types():
                if "sensor_msgs/msg/Image" not in kinds or "/camera/" not in topic:
                    continue
                namespace, _, rest = topic.rpartition("/camera/")
                if namespace in found:
                    found[namespace].cameras[rest.partition("/")[0]] = topic
            for namespace, view in found.items():
                before = self.robots.get(namespace)
                view.description = before.description if before else None
            self.robots = found
            for namespace in found.keys() - self._specs.keys():
                self._specs[namespace] = self._listen(
                    namespace, topics.ROBOT_SPEC, robot_description_from_message, self._on_spec
                )
            for namespace in list(self._specs.keys() - found.keys()):
                self._specs.pop(namespace).destroy()
            for service in {
                one.services["emergency_stop"] for one in found.values()
            } - self._stops.keys():
                self._stops[service] = self.node.create_client(Trigger, service)
            # Those of robots that went stay: to destroy one may hang in the middleware, and some come back.

    def _on_spec(self, namespace: str, description: RobotDescription) -> None:
        with self._lock:
            view = self.robots.get(namespace)
            if view is not None:
                view.description = description

    def _listen(
        self,
        namespace: str,
        topic: topics.Topic,
        decode: Callable[[Any], Any],
        take: Callable[[str, Any], None],
    ) -> CheckedSubscription:
        return CheckedSubscription(
            self.node,
            f"{namespace}/{topic.name}",
            interface_class(topic.type),
            decode,
            lambda value: take(namespace, value),
            profile(topic.quality),
        )

    def arm(self, namespace: str) -> ArmState:
        """A robot as it is drawn, kept up to date while a page asks for it some times a second."""
        return self._arms.of(namespace)

    # --- services -------------------------------------------------------------------------

    def call(self, service: str) -> Answer:
        """Call a ``std_srvs/Trigger``; waits for the answer, some seconds at most. Not in the graph's own
        thread."""
        with self._client(Trigger, service) as client:
            for _ in range(_ATTEMPTS):
                answer = _answer(client, Trigger.Request(), _ANSWER_S)
                if answer is not None:
                    return Answer(bool(answer.success), str(answer.message))
        return Answer(False, "it does not answer")

    def restart(self, node: str) -> Answer:
        """Take a node down and up again by its life cycle (deactivate, cleanup, configure, activate): it takes up its
        parameters and its devices anew. Waits for a minute or two at most. Not in the graph's own thread."""
        with self._client(ChangeState, f"{node}/change_state") as client:
            if client.wait_for_service(_ANSWER_S):
                time.sleep(_KNOWN_S)  # a transition is not asked for twice
            for name, transition in _RESTART.items():
                request = ChangeState.Request(transition=Transition(id=transition))
                answer = _answer(client, request, _TRANSITION_S)
                if answer is None:
                    return Answer(False, f"it does not answer to {name}")
                if not answer.success and name in _UP:
                    return Answer(False, f"could not {name}: /diagnostics and its log say why")
        return Answer(True, "it acts again")

    @contextmanager
    def _client(self, kind: Any, service: str) -> Iterator[Any]:
        client = self.node.create_client(kind, service)
        try:
            yield client
        finally:
            let_go(self.node, lambda: self.node.destroy_client(client))

    def stop(self, namespace: str, answered: Callable[[Answer], None]) -> bool:
        """Ask a robot to stop in an emergency, and return at once. Any thread.

        Args:
            namespace: Of the robot.
            answered: Called with its answer, in the graph's own thread.

        Returns:
            Whether it could be asked: its service was found when somebody looked, and is there.
        """
        with self._lock:
            view = self.robots.get(namespace)
            client = self._stops.get(view.services["emergency_stop"]) if view else None
            try:
                if client is None or not client.service_is_ready():
                    return False
                future = ask(client, Trigger.Request())
            except (TransportError, rclpy_implementation.InvalidHandle):
                return False

        def done(_: Any) -> None:
            answer = future.result()
            if answer is not None:
                answered(Answer(bool(answer.success), str(answer.message)))

        future.add_done_callback(done)
        return True

    # --- cameras --------------------------------------------------------------------------

    def watch_camera(self, topic: str, rate_hz: float) -> CameraView:
        """Subscribe to a camera. No thread is woken by its images: :meth:`take_image` takes the newest.

        Args:
            topic: Of its images.
            rate_hz: How many of them are shown a second, at most: the name of the node tells it.
        """
        seldom = rate_hz <= topics.CONSOLE_SELDOM_HZ
        view = CameraView(topic, self._seldom_node() if seldom else self.node)
        view.subscription = view.node.create_subscription(
            Image, topic, lambda _: None, _NEWEST, raw=True, callback_group=BesideExecutor()
        )
        return view

    def leave_camera(self, view: CameraView) -> None:
        """Subscribe no more."""
        let_go(view.node, lambda: view.node.destroy_subscription(view.subscription))

    def _seldom_node(self) -> Any:
        """Of the same participant; nothing is called in it, so that it needs no thread."""
        with self._lock:
            if self._seldom is None:
                self._seldom = rclpy.create_node(
                    topics.CONSOLE_SELDOM_NODE, context=self.context, use_global_arguments=False,
                    enable_rosout=False, start_parameter_services=False,
                )  # fmt: skip
            return self._seldom

    @staticmethod
    def take_image(view: CameraView) -> bool:
        """Take the newest image, and return at once; whether there was one that was not taken before."""
        try:
            with view.subscription.handle:
                taken = view.subscription.handle.take_message(Image, True)
        except Exception:  # InvalidHandle: the node has gone first
            return False
        if taken is None:
            return False
        view.data, info = taken
        waited_s = (time.time_ns() - info.get("received_timestamp", 0)) / 1e9
        if not 0 <= waited_s < _LONGEST_S:  # unknown, or the clock was set
            waited_s = 0.0
        view.received_s = time.monotonic() - waited_s
        return True

    @staticmethod
    def jpeg(view: CameraView, quality: int = 80) -> bytes | None:
        """The newest image as JPEG; None for one that cannot be shown. Any thread."""
        return None if view.data is None else _jpeg(view.data, quality)

    # --- driving --------------------------------------------------------------------------

    def drive(self, namespace: str, config: BrowserConfig, device: str) -> Drive:
        """A place from which a person drives a robot. Raises SuiteError where the robot cannot be driven so, or was not
        heard of."""
        with self._lock:
            view = self.robots.get(namespace)
        if view is None or view.description is None:
            raise SuiteError(
                f"robot {namespace or '/'}", got="not heard of yet", expected="a robot that runs"
            )
        return Drive(self.node, namespace, view.description.spec, config, device)

    def tell(self, namespace: str, label: str, device: str) -> None:
        """Give the running episode a verdict, once: ``success``, ``failure`` or ``abort``."""
        with self._lock:
            view = self.robots.get(namespace)
        if view is None or view.description is None:
            raise SuiteError(
                f"robot {namespace or '/'}", got="not heard of yet", expected="a robot that runs"
            )
        with Drive(self.node, namespace, view.description.spec, BrowserConfig(), device) as place:
            place.say(label)


def _answer(client: Any, request: Any, patience_s: float) -> Any:
    """What a service answers; None where nothing comes."""
    if not client.wait_for_service(_ANSWER_S):
        return None
    done = threading.Event()
    try:
        future = ask(client, request)
    except TransportError:
        return None
    future.add_done_callback(lambda _: done.set())
    return future.result() if done.wait(patience_s) else None


def _jpeg(data: bytes, quality: int) -> bytes | None:
    try:
        message = decode_bytes(data, Image, lambda fields: fields, _IMAGE_LIMITS)
        image = _shown(message)
    except (SuiteError, ValueError):
        return None
    done, coded = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return coded.tobytes() if done else None


def _shown(message: Any) -> np.ndarray[Any, Any]:
    """An image in OpenCV's order of colours; depths as grey, near is bright. Raises ValueError for another coding."""
    height, width, step, coding = message.height, message.width, message.step, message.encoding
    raw = np.frombuffer(memoryview(message.data), np.uint8)[: height * step].reshape(height, step)
    if coding in _DEPTHS:
        kind = np.dtype(_DEPTHS[coding])
        depth = np.ascontiguousarray(raw[:, : width * kind.itemsize]).view(kind).astype(np.float32)
        known = np.isfinite(depth) & (depth > 0)
        if not known.any():
            return np.zeros((height, width), np.uint8)
        near, far = np.percentile(depth[known], (1, 99))
        share = (far - depth) / max(far - near, 1e-6)
        return np.where(known, np.clip(share, 0, 1) * 255, 0).astype(np.uint8)
    if coding not in _CHANNELS:
        raise ValueError(coding)
    channels = _CHANNELS[coding]
    image = np.ascontiguousarray(raw[:, : width * channels]).reshape(height, width, channels)
    return cv2.cvtColor(image, _BGR[coding]) if coding in _BGR else image
