"""What was recorded on ROS topics, read by the same contract as the living robot.

A recording is played to the readers of :mod:`user_hal.robots.ros2.reading`: the same moments,
resampling, frames and checks. What the living robot is *told* by the contract is here read back from
the topics of its commands.

- :mod:`~user_hal.robots.ros2.recorded.config`: where episodes begin and end, and what they were;
- :mod:`~user_hal.robots.ros2.recorded.cuts`: the episodes of a recording;
- :mod:`~user_hal.robots.ros2.recorded.topics`: recorded messages as topics;
- :mod:`~user_hal.robots.ros2.recorded.commands`: from a message of a command to a target;
- :mod:`~user_hal.robots.ros2.recorded.actions`: from targets to the action of a control period;
- :mod:`~user_hal.robots.ros2.recorded.playing`: all of it, step by step.
"""
