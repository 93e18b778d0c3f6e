"""Core types to ROS messages and back. Encoding is fast; decoding trusts nothing.

Every ``..._from_message`` checks each enumeration, number and name, and raises
:class:`~user_core.errors.CodecError` naming the field; arrays become read-only views of the
message's bytes, after their sizes were checked against limits.
"""

from user_comm.converters.action import (
    action_chunk_from_message,
    action_chunk_to_message,
)
from user_comm.converters.converter import CONVERTERS, Converter, converter_of
from user_comm.converters.episode import (
    EpisodeReport,
    episode_key_from_message,
    episode_key_to_message,
    episode_report_from_message,
    episode_report_to_message,
    episode_result_from_message,
    episode_result_to_message,
)
from user_comm.converters.intervention import (
    Intervention,
    intervention_from_message,
    intervention_to_message,
)
from user_comm.converters.lease import lease_from_message, lease_to_message
from user_comm.converters.observation import (
    observation_from_message,
    observation_to_message,
)
from user_comm.converters.policy_version import (
    BlobKind,
    PolicyAnnouncement,
    policy_announcement_from_message,
    policy_announcement_to_message,
)
from user_comm.converters.spec import (
    RobotDescription,
    array_spec_from_message,
    array_spec_to_message,
    robot_description_from_message,
    robot_description_to_message,
)
from user_comm.converters.stamps import set_stamp, stamp_ns
from user_comm.converters.tensor import (
    tensor_to_message,
    tensors_from_messages,
    tensors_to_messages,
)
from user_comm.converters.trajectory import (
    trajectory_ack_from_message,
    trajectory_ack_to_message,
    trajectory_chunk_from_message,
    trajectory_chunk_to_message,
)

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
    "trajectory_chunk_to_message",
]
