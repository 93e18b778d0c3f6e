"""Hosts and scheduler across a network: who is there (:mod:`.hosts`), and what they tell each other."""
