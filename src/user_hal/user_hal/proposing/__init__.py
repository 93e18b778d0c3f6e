"""A first contract from a running ROS graph: ``user robots propose``.

- :mod:`~user_hal.robot_description`: what a robot description says about joints;
- :mod:`~user_hal.proposing.survey`: what is there: topics, controllers, messages;
- :mod:`~user_hal.proposing.grouping`: which controllers move which arm;
- :mod:`~user_hal.proposing.namesakes`: robots whose joints have the same names;
- :mod:`~user_hal.proposing.questions`: what must be asked, and the draft;
- :mod:`~user_hal.proposing.commands`: what commands a part of the robot;
- :mod:`~user_hal.proposing.draft`: the whole contract;
- :mod:`~user_hal.proposing.writing`: YAML with comments.
"""
