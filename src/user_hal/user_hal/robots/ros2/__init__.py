"""Driver ``ros2``: any robot that already lives on ROS 2 topics, by a contract in YAML.

- :mod:`~user_hal.robots.ros2.contract`: what a contract may say;
- :mod:`~user_hal.robots.ros2.driver`: the robot; :mod:`~user_hal.robots.ros2.commanding.drives`: one group of it.

What comes in:

- :mod:`~user_hal.robots.ros2.messages`: numbers out of messages;
- :mod:`~user_hal.robots.ros2.reading.topic_parts`, :mod:`~user_hal.robots.ros2.reading.tf_part`,
  :mod:`~user_hal.robots.ros2.buffer`: one topic, or /tf, by its stamps;
- :mod:`~user_hal.robots.ros2.reading.observations`: all topics, taken together;
- :mod:`~user_hal.robots.ros2.frames`, :mod:`~user_hal.robots.ros2.tf_tree`: where frames are;
- :mod:`~user_hal.robots.ros2.stop_conditions`: topics that stop the robot.

What goes out:

- :mod:`~user_hal.robots.ros2.commanding.targets`: from an action to the next target of joints, tool or base;
- :mod:`~user_hal.robots.ros2.commanding.senders`, :mod:`~user_hal.robots.ros2.commanding.grippers`: from a target to a
  message;
- :mod:`~user_hal.robots.ros2.filling`: fields of any type, by a mapping;
- :mod:`~user_hal.robots.ros2.calls`: services and actions before and after motion;
- :mod:`~user_hal.robots.ros2.commanding.homing`: the way back to the start;
- :mod:`~user_hal.robots.ros2.commanding.following`: whether motion follows.
"""
