"""From messages to observations: sources, their parts, and what no robot can have sent."""
