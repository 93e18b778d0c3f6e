"""The ROS shell of this package: the nodes `hal` and `teleop`."""
