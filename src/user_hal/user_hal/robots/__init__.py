"""Robot drivers: one device a file, found by their entry points in `user.robots`."""
