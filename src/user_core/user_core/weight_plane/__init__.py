"""Policy versions between a learner and an inference host of one machine, without a network.

The learner offers each version that it publishes (:mod:`~user_core.weight_plane.offers`) on a Unix socket that is named
by the version's content hash. Whoever hears of a version by its announcement looks for that socket: where it answers,
the learner is on this host, and the weights are taken from it (:mod:`~user_core.weight_plane.taking`); else they come
over the network as they do anywhere. There are two ways:

- ``gpu``: a copy of the weights in the learner's GPU memory, which the taker maps (CUDA IPC) and copies from by the
  GPU's own means: within the GPU, or from one GPU to another.
- ``memory``: a sealed file in memory, the descriptor of which goes over the socket.

A socket of this kind (abstract) has no file, and what is mapped has none either: nothing stays behind when a process is
killed. Either side notices the other's end by the connection. What is taken is compared with checksums of its pieces,
and is not used before all are right.
"""
