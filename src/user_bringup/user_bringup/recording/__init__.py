"""Recording of a run's topics as a bag beside the store: ``record:`` in a deployment."""
