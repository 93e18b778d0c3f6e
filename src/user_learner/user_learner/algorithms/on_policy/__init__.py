"""Policy gradients from what the robots did with recent versions."""
