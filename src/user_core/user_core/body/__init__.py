"""A robot's body: its parts, what is known of how they move, and the space that different bodies share."""
