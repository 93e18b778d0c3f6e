"""Collecting experience: the control loop, interventions, episodes, and the durable outbox."""
