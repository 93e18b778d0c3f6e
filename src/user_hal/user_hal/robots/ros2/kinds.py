"""Message types and action kinds that the driver knows, and which go together."""

from __future__ import annotations

from user_core.specs import ActionKind

JOINT_STATE = "sensor_msgs/msg/JointState"
JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
NUMBERS = "std_msgs/msg/Float64MultiArray"
NUMBER = "std_msgs/msg/Float64"
TWIST = "geometry_msgs/msg/TwistStamped"
POSE = "geometry_msgs/msg/PoseStamped"
#: Up to Kilted, and of many grippers' own drivers.
GRIPPER_ACTION = "control_msgs/action/GripperCommand"
#: Of ros2_controllers' parallel_gripper_controller.
PARALLEL_GRIPPER_ACTION = "control_msgs/action/ParallelGripperCommand"

JOINT_TYPES = (JOINT_TRAJECTORY, NUMBERS, JOINT_STATE)
TOOL_TYPES = (TWIST, POSE)

JOINT_KINDS = (ActionKind.JOINT_POSITION, ActionKind.JOINT_DELTA, ActionKind.JOINT_VELOCITY)

TOOL_KINDS = (ActionKind.EE_DELTA, ActionKind.EE_TWIST, ActionKind.EE_POSE)

#: Which command types can carry out which action.
FITTING: dict[ActionKind, tuple[str, ...]] = {
    **dict.fromkeys(JOINT_KINDS, JOINT_TYPES),
    ActionKind.EE_DELTA: TOOL_TYPES,
    ActionKind.EE_TWIST: TOOL_TYPES,
    ActionKind.EE_POSE: (POSE,),
}
