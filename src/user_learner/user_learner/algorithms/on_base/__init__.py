"""Off-policy learning on top of a frozen policy: a correction of its actions, or the noise that it acts from."""
