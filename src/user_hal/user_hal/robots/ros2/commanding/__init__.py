"""From actions to commands: targets, what carries them out, grippers, the way home, what is followed."""
