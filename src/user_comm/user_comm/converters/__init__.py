"""Core types to ROS messages and back. Encoding is fast; decoding trusts nothing.

Every ``..._from_message`` checks each enumeration, number and name, and raises
:class:`~user_core.errors.CodecError` naming the field; arrays become read-only views of the
message's bytes, after their sizes were checked against limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from user_comm.converters.fields import (
    set_stamp,
    stamp_ns,
    tensor_to_message,
    tensors_from_messages,
    tensors_to_messages,
)
from user_comm.converters.learning import (
    BlobKind,
    EpisodeReport,
    PolicyAnnouncement,
    episode_key_from_message,
    episode_key_to_message,
    episode_report_from_message,
    episode_report_to_message,
    episode_result_from_message,
    episode_result_to_message,
    policy_announcement_from_message,
    policy_announcement_to_message,
    trajectory_ack_from_message,
    trajectory_ack_to_message,
    trajectory_chunk_from_message,
    trajectory_chunk_to_cdr,
    trajectory_chunk_to_message,
)
from user_comm.converters.robot import (
    Intervention,
    RobotDescription,
    action_chunk_from_message,
    action_chunk_to_message,
    array_spec_from_message,
    array_spec_to_message,
    intervention_from_message,
    intervention_to_message,
    lease_from_message,
    lease_to_message,
    observation_from_message,
    observation_to_message,
    robot_description_from_message,
    robot_description_to_message,
)
from user_core.errors import TransportError

__all__ = [
    "CONVERTERS",
    "BlobKind",
    "Converter",
    "EpisodeReport",
    "Intervention",
    "PolicyAnnouncement",
    "RobotDescription",
    "action_chunk_from_message",
    "action_chunk_to_message",
    "array_spec_from_message",
    "array_spec_to_message",
    "converter_of",
    "episode_key_from_message",
    "episode_key_to_message",
    "episode_report_from_message",
    "episode_report_to_message",
    "episode_result_from_message",
    "episode_result_to_message",
    "intervention_from_message",
    "intervention_to_message",
    "lease_from_message",
    "lease_to_message",
    "observation_from_message",
    "observation_to_message",
    "policy_announcement_from_message",
    "policy_announcement_to_message",
    "robot_description_from_message",
    "robot_description_to_message",
    "set_stamp",
    "stamp_ns",
    "tensor_to_message",
    "tensors_from_messages",
    "tensors_to_messages",
    "trajectory_ack_from_message",
    "trajectory_ack_to_message",
    "trajectory_chunk_from_message",
    "trajectory_chunk_to_cdr",
    "trajectory_chunk_to_message",
]


@dataclass(frozen=True)
class Converter:
    """The two directions of one message type.

    Attributes:
        encode: Core value to message.
        decode: Message to core value; raises CodecError or SpecError.
    """

    encode: Callable[..., Any]
    decode: Callable[..., Any]


#: Message types that stand for a core value. All others are used as they are.
CONVERTERS: Mapping[str, Converter] = {
    "user_msgs/msg/Observation": Converter(observation_to_message, observation_from_message),
    "user_msgs/msg/ActionChunk": Converter(action_chunk_to_message, action_chunk_from_message),
    "user_msgs/msg/RobotSpec": Converter(
        robot_description_to_message, robot_description_from_message
    ),
    "user_msgs/msg/Intervention": Converter(intervention_to_message, intervention_from_message),
    "user_msgs/msg/TrajectoryChunk": Converter(
        trajectory_chunk_to_message, trajectory_chunk_from_message
    ),
    "user_msgs/msg/TrajectoryAck": Converter(
        trajectory_ack_to_message, trajectory_ack_from_message
    ),
    "user_msgs/msg/PolicyVersion": Converter(
        policy_announcement_to_message, policy_announcement_from_message
    ),
    "user_msgs/msg/EpisodeResult": Converter(
        episode_report_to_message, episode_report_from_message
    ),
}


def converter_of(type_name: str) -> Converter:
    """The converter of a message type that stands for a core value.

    Raises:
        TransportError: This type is used as it is.
    """
    try:
        return CONVERTERS[type_name]
    except KeyError:
        raise TransportError(
            "converter of a message type", got=type_name, expected=f"one of {sorted(CONVERTERS)}"
        ) from None
