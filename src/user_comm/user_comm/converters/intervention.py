"""What a person wants, to and from ``user_msgs/Intervention``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from user_msgs.msg import Intervention as InterventionMessage

from user_comm.converters import checks
from user_comm.converters.action import ACTION_LIMITS
from user_comm.converters.stamps import set_stamp, stamp_ns
from user_comm.converters.tensor import (
    optional_from_messages,
    tensor_to_message,
    vector,
)
from user_core.codecs import Limits
from user_core.errors import CodecError
from user_core.interfaces import TeleopCommand
from user_core.types import Label

_NO_ACTION = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Intervention:
    """A teleop command, and where it comes from: the content of ``intervention``.

    Attributes:
        command: What the person wants.
        device: Name of the teleoperation device.
        scripted: A program stands in for the person.
        observation_sequence: Sequence number of the observation it answers; 0: none.
        frame_id: Frame of the action.
    """

    command: TeleopCommand
    device: str
    scripted: bool = False
    observation_sequence: int = 0
    frame_id: str = ""


def label_of(command: TeleopCommand) -> Label:
    """The one label of a command. Of several the gravest counts: abort, failure, success."""
    if command.abort:
        return Label.ABORT
    if command.failure:
        return Label.FAILURE
    return Label.SUCCESS if command.success else Label.NONE


def intervention_to_message(intervention: Intervention) -> Any:
    """Encode; the action travels only while the person is engaged."""
    command = intervention.command
    message = InterventionMessage()
    set_stamp(message.header.stamp, command.stamp_ns)
    message.header.frame_id = intervention.frame_id
    message.device = intervention.device
    message.engaged = bool(command.engaged)
    message.scripted = bool(intervention.scripted)
    if command.engaged:
        message.action = [tensor_to_message("action", command.action)]
    message.label = int(label_of(command))
    message.observation_sequence = int(intervention.observation_sequence)
    return message


def intervention_from_message(message: Any, *, limits: Limits = ACTION_LIMITS) -> Intervention:
    """Decode; without engagement the action is an empty vector.

    Raises CodecError: a field is out of its range, or somebody is engaged without an action.
    """
    label = checks.enum(Label, message.label, "intervention.label")
    action = optional_from_messages(message.action, limits, "intervention.action")
    if message.engaged and action is None:
        raise CodecError("intervention.action", got="none", expected="an action, for it is engaged")
    if not message.engaged or action is None:
        action = _NO_ACTION
    return Intervention(
        command=TeleopCommand(
            engaged=message.engaged,
            action=vector(action, "intervention.action"),
            stamp_ns=stamp_ns(message.header.stamp, "intervention.header.stamp"),
            success=label is Label.SUCCESS,
            failure=label is Label.FAILURE,
            abort=label is Label.ABORT,
        ),
        device=checks.name(message.device, "intervention.device", empty=True),
        scripted=message.scripted,
        observation_sequence=message.observation_sequence,
        frame_id=checks.name(message.header.frame_id, "intervention.frame_id", empty=True),
    )
