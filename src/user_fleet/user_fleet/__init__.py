"""Robots, cameras and GPUs as resources: discovery, leases, scheduling, supervision and life cycle of processes."""
