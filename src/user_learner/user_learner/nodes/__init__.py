"""Nodes of user_learner: thin shells around the replay store and the training loop."""
