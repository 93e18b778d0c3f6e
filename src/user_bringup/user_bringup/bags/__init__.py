"""ROS bags as data sets: what was recorded of any robot becomes episodes by the robot's own contract.

It is here because a bag needs a robot's contract (``user_hal``), and an import the store
(``user_learner``), which do not know of each other.
"""
