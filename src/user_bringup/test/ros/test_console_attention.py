"""What the console asks of the graph: nothing that nobody looks at, and that a node is started anew."""

from __future__ import annotations

import array
import time
from functools import partial

import cv2
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import Image
from user_msgs.msg import ActorStatus, EpisodeResult

pytest.importorskip("nicegui", reason="nicegui is not installed")

from user_bringup.nodes import console_graph, graph_node
from user_bringup.nodes.console_graph import ConsoleGraph
from user_bringup.nodes.monitor import Monitor
from user_comm.lifecycle import LifecycleNode
from user_comm.topics import CONSOLE_SELDOM_NODE
from user_core.config import Config
from user_core.errors import ConfigError
from user_testing.spinning import spinning
from user_testing.waiting import wait_until


@pytest.fixture
def robot(ros_domain):
    """A node of somebody else."""
    with spinning(partial(rclpy.create_node, "robot")) as (node,):
        yield node


def test_status_is_listened_to_while_somebody_looks_and_episodes_always(robot, monkeypatch):
    monkeypatch.setattr(graph_node, "_KEPT_S", 1.5)
    monkeypatch.setattr(graph_node, "_IDLE_PERIOD_S", 0.3)
    status = robot.create_publisher(ActorStatus, "/r/actor_status", 10)
    nodes = robot.create_publisher(DiagnosticArray, "/diagnostics", 10)
    episodes = robot.create_publisher(EpisodeResult, "/r/episode_result", 10)
    with (
        ConsoleGraph() as graph,
        Monitor(when_asked=True, contexts={None: graph.context}) as monitor,
    ):
        wait_until(episodes.get_subscription_count, "episodes are listened to")
        assert not status.get_subscription_count()
        episodes.publish(EpisodeResult(robot="r", source=0, outcome=1))
        wait_until(lambda: monitor.state.episodes, "an episode while nobody looks")

        def looks(what):
            monitor.attend()
            return what()

        wait_until(lambda: looks(status.get_subscription_count), "somebody looks")
        both = {"r", "beside it"}
        for actor in both:  # one after the other, between two looks
            status.publish(ActorStatus(actor=actor))
        wait_until(lambda: looks(lambda: both <= monitor.state.actors.keys()), "both")
        wait_until(lambda: looks(nodes.get_subscription_count), "the nodes")
        managed = DiagnosticStatus(name="manager: managed hal", level=b"\1")
        for one in (DiagnosticStatus(name="hal: topic x"), managed):
            nodes.publish(DiagnosticArray(status=[one]))
        wait_until(lambda: looks(lambda: "hal" in monitor.state.managed), "a managed node")
        wait_until(lambda: not status.get_subscription_count(), "nobody looks any more")
        assert episodes.get_subscription_count() == 1
        monitor.state.actors["r"].received_s -= 100.0
        assert monitor.state.silent() == ["r"]
        monitor.attend()
        assert not monitor.state.silent(), "it could not be heard meanwhile"


def test_a_camera_is_subscribed_to_while_it_is_shown_and_its_newest_image_is_taken(robot):
    topic = "/r/camera/front/image"
    camera = robot.create_publisher(Image, topic, 10)

    def image(grey):
        data = array.array("B", np.full((8, 16, 3), grey, np.uint8).tobytes())
        return Image(height=8, width=16, step=48, encoding="rgb8", data=data)

    with ConsoleGraph() as graph:
        view = graph.watch_camera(topic, 10.0)
        wait_until(lambda: camera.get_subscription_count() == 1, "it is subscribed to")
        assert not graph.take_image(view)
        assert graph.jpeg(view) is None

        def comes():
            camera.publish(image(40))
            return graph.take_image(view)

        wait_until(comes, "an image")
        for grey in (60, 200):
            camera.publish(image(grey))
        brightness = []

        def newest():
            if graph.take_image(view):
                shown = cv2.imdecode(np.frombuffer(graph.jpeg(view), np.uint8), cv2.IMREAD_COLOR)
                brightness.append(int(shown.mean()))
            return brightness and abs(brightness[-1] - 200) < 4

        wait_until(newest, "the newest image")
        assert time.monotonic() - view.received_s < 10.0
        graph.leave_camera(view)
        wait_until(lambda: camera.get_subscription_count() == 0, "it is left")
        view = graph.watch_camera(topic, 4.0)  # whoever publishes sees that few are shown

        def readers():
            return [one.node_name for one in robot.get_subscriptions_info_by_topic(topic)]

        wait_until(lambda: readers() == [CONSOLE_SELDOM_NODE], "one that looks seldom")
        wait_until(comes, "an image")
    wait_until(lambda: not readers(), "it is left at the end")


class Device(LifecycleNode):
    """Says what it was told to do."""

    Config = Config

    def __init__(self, **options):
        super().__init__("device", **options)
        self.told, self.is_broken = [], False

    def configure(self, stack):
        if self.is_broken:
            raise ConfigError("device", got="none", expected="one that is plugged in")
        self.told.append("configure")
        stack.callback(self.told.append, "cleanup")

    def activate(self, stack):
        self.told.append("activate")
        stack.callback(self.told.append, "deactivate")


def test_a_node_is_started_anew_from_whatever_state_and_says_why_it_cannot(ros_domain, monkeypatch):
    with spinning(Device) as (device,), ConsoleGraph() as graph:
        assert graph.restart("/device").ok  # it had not been up
        assert device.told == ["configure", "activate"]
        device.told.clear()
        assert graph.restart("/device").ok
        assert device.told == ["deactivate", "cleanup", "configure", "activate"]
        assert device.state == "active"
        device.is_broken = True
        answer = graph.restart("/device")
        assert not answer.ok
        assert "could not configure" in answer.text
        monkeypatch.setattr(console_graph, "_ANSWER_S", 0.2)
        gone = graph.restart("/nobody")
        assert not gone.ok
        assert "does not answer" in gone.text
