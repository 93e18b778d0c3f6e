"""Rewards that actor and learner share."""
