"""LeRobot's policies (ACT, diffusion, SmolVLA, pi0, ...) as policies of ours. Its code is imported, never copied."""
