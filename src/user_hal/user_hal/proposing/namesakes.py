"""Robots whose joints have the same names, each in a namespace of its own: ``/left/joint_states`` and
``/right/joint_states`` with ``joint1`` in both. A contract needs a name for each joint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from user_hal.proposing.survey import JointSample, Survey


@dataclass
class Namesakes:
    """Names for a contract, and what they are called in messages.

    Attributes:
        own: By name in the contract, what messages call the joint; only of those that differ.
    """

    own: dict[str, str] = field(default_factory=dict)

    def in_messages(self, names: Sequence[str]) -> list[str]:
        """What messages call these joints."""
        return [self.own.get(name, name) for name in names]

    def differ(self, names: Sequence[str]) -> bool:
        """Whether messages call one of them otherwise."""
        return any(name in self.own for name in names)


def with_distinct_names(found: Survey) -> tuple[Survey, Namesakes]:
    """The survey with a name of its own for each joint, where robots in several namespaces that
    are commanded there have the same."""
    names = Namesakes()
    doubles = _doubles(found)
    if not doubles:
        return found, names
    spaces = [namespace(topic) for topic in doubles]
    prefixes = dict(zip(spaces, _telling(spaces)))
    changed = {}
    for topic, sample in found.joints.items():
        if topic not in doubles:
            changed[topic] = sample
            continue
        prefix = prefixes[namespace(topic)]
        qualified = [f"{prefix}_{name}" for name in sample.names]
        names.own |= dict(zip(qualified, sample.names))
        position = {f"{prefix}_{name}": value for name, value in sample.position.items()}
        changed[topic] = JointSample(qualified, position, sample.velocity, sample.effort)
    joints_of = {}
    for node, joints in found.joints_of.items():
        space = next((s for s in spaces if node == s or node.startswith(f"{s}/")), "")
        joints_of[node] = tuple(f"{prefixes[space]}_{name}" for name in joints) if space else joints
    return replace(found, joints=changed, joints_of=joints_of, description=""), names


def namespace(topic: str) -> str:
    """All but the last part of a topic's name."""
    return topic.rpartition("/")[0]


def _doubles(found: Survey) -> list[str]:
    """JointState topics that share names with another one, in namespaces where somebody listens
    to commands."""
    commanded = {
        namespace(topic)
        for topic in found.joints
        if any(t.heard and t.name.startswith(f"{namespace(topic)}/") and not t.published for t in found.topics)
    }  # fmt: skip
    candidates = [
        topic for topic in found.joints if namespace(topic) and namespace(topic) in commanded
    ]
    return [
        topic
        for topic in candidates
        if any(
            namespace(other) != namespace(topic)
            and set(found.joints[other].names) & set(found.joints[topic].names)
            for other in candidates
        )
    ]


def _telling(spaces: Sequence[str]) -> list[str]:
    """The words of namespaces that tell them apart: ``/follower_left`` is ``left``."""
    said = [[word for word in re.split(r"[/_]", space) if word] for space in spaces]
    common = set.intersection(*(set(words) for words in said)) if said else set()
    return [
        "_".join(word for word in words if word not in common) or "_".join(words) for words in said
    ]
