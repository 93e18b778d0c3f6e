"""The ROS shell of this package: the node `actor`."""
