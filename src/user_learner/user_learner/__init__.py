"""Learning from experience: the replay store, sampling, algorithms, the training loop and its checkpoints."""
