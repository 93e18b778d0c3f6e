"""Sinks for the numbers of a training: the thread that each has, TensorBoard, Weights & Biases, Trackio."""
