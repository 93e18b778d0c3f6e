"""Nodes of user_bringup."""
