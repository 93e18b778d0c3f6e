"""Robots, cameras and teleoperation devices behind one interface, simulated scenes, and the safety gate in front of
every command."""
