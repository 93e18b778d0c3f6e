"""The operator's page: what is seen of a running system, and done to it, from a browser."""
