"""Nodes of user_fleet."""
