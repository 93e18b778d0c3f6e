"""Simulated arms in front of tasks: physics, kinematics, pictures, and experts that solve them."""
