"""What several algorithms use: parameters in one tensor, ensembles, minibatches, distribution."""
