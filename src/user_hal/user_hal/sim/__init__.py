"""Simulated arms in front of tasks: physics, kinematics, images, and experts that solve them."""
