"""Cameras: one kind a file, found by their entry points in `user.cameras`."""
