"""The layouts for Foxglove and PlotJuggler show topics and fields that there are."""

import json
import re
from xml.etree import ElementTree

import pytest

pytest.importorskip("rclpy")

from user_bringup.running.find import config_folder
from user_comm.topics import TOPICS, interface_class

FOLDER = config_folder()


def topic_of(name):
    """The entry of the table that a name in the namespace /robot0, or of the learner, belongs to."""
    name = name.removeprefix("/robot0/")
    for topic in TOPICS:
        pattern = re.sub(r"\{\w+\}", "[a-z]+", topic.name)
        if re.fullmatch(pattern, name) or re.fullmatch(pattern, name.lstrip("/")):
            return topic
    return None


def has_field(topic, path):
    message = interface_class(topic.type)()
    for part in path:
        part = part.partition("[")[0]
        if not hasattr(message, part):
            return False
        message = getattr(message, part)
    return True


def values(node):
    if isinstance(node, dict):
        for below in node.values():
            yield from values(below)
    elif isinstance(node, list):
        for below in node:
            yield from values(below)
    elif isinstance(node, str) and node.startswith("/"):
        yield node


def test_foxglove():
    layout = json.loads((FOLDER / "foxglove" / "user.json").read_text())
    named = [*values(layout["configById"]), *layout["configById"]["3D!robot"]["topics"]]
    for text in set(named) - {"/robot0/robot_description"}:
        topic, _, path = text.partition(".")
        assert topic_of(topic) is not None, text
        assert has_field(topic_of(topic), path.split(".") if path else ()), text

    def panels(node):
        return [node] if isinstance(node, str) else panels(node["first"]) + panels(node["second"])

    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])


def test_plotjuggler():
    root = ElementTree.parse(FOLDER / "plotjuggler" / "user.xml").getroot()
    curves = [str(curve.get("name")) for curve in root.iter("curve")]
    assert len(curves) > 10
    for name in curves:
        parts = name.strip("/").split("/")
        count = 2 if parts[0] == "robot0" else 1
        topic = topic_of("/" + "/".join(parts[:count]))
        assert topic is not None, name
        assert has_field(topic, parts[count:]), name
