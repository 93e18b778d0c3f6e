"""Driver ``ros2``: any robot that already lives on ROS 2 topics, by a contract in YAML.

- :mod:`~user_hal.robots.ros2.contract`: what a contract may say;
- :mod:`~user_hal.robots.ros2.messages`: numbers out of messages;
- :mod:`~user_hal.robots.ros2.observations`: what came, by its stamp, and resampling;
- :mod:`~user_hal.robots.ros2.observations`: one topic: subscription, numbers, buffer;
- :mod:`~user_hal.robots.ros2.observations`: all topics, taken together;
- :mod:`~user_hal.robots.ros2.commands`: from an action to the next target of joints or tool;
- :mod:`~user_hal.robots.ros2.commands`: from a target to a message;
- :mod:`~user_hal.robots.ros2.homing`: the way back to the start;
- :mod:`~user_hal.robots.ros2.driver`: the robot.
"""
