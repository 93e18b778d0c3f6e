"""A first contract from a running ROS graph: ``user robots propose``.

- :mod:`~user_hal.robot_description`: what a robot description says about joints;
- :mod:`~user_hal.proposing.survey`: what is there: topics, controllers, messages;
- :mod:`~user_hal.proposing.grouping`: which controllers move which arm;
- :mod:`~user_hal.proposing.draft`: the contract, and what must be asked;
- :mod:`~user_hal.proposing.writing`: YAML with comments.
"""
