"""What algorithms share: minibatches, networks of values, optimisers, CUDA graphs, processes that learn together."""
