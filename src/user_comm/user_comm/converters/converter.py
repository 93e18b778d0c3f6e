"""What a message type is to the core: which value it carries, and how to get from one to the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from user_comm.converters.action import (
    action_chunk_from_message,
    action_chunk_to_message,
)
from user_comm.converters.episode import (
    episode_report_from_message,
    episode_report_to_message,
)
from user_comm.converters.intervention import (
    intervention_from_message,
    intervention_to_message,
)
from user_comm.converters.observation import (
    observation_from_message,
    observation_to_message,
)
from user_comm.converters.policy_version import (
    policy_announcement_from_message,
    policy_announcement_to_message,
)
from user_comm.converters.spec import (
    robot_description_from_message,
    robot_description_to_message,
)
from user_comm.converters.trajectory import (
    trajectory_ack_from_message,
    trajectory_ack_to_message,
    trajectory_chunk_from_message,
    trajectory_chunk_to_message,
)
from user_core.errors import TransportError


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
