"""Teleoperation devices: how a person drives a robot. One device a file."""
