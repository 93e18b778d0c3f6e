"""Learning from what others did: behaviour cloning, and cloning that is told how good each action was."""
