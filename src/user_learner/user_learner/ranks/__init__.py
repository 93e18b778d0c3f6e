"""A learner of several processes: one for each GPU, or several on the cores of a host.

``learner_node`` is the first of them (rank 0). It alone talks to robots, writes checkpoints,
versions and curves, and has the life cycle of a node. It starts the others
(:mod:`user_learner.ranks.follow`), or finds them where ``torchrun`` has started all, and tells
them what to learn. Each reads the store itself, draws its part of every batch
(:class:`user_learner.sampling.share.Share`) and averages gradients with the others
(:mod:`user_learner.algorithms.common.distributed`); those on hosts without the store are sent theirs
(:mod:`user_learner.training.remote_batches`). Other hosts bring theirs by ``learner_ranks``
(:mod:`user_learner.ranks.hosts`). When one of them dies, all end, the supervisor starts the node again,
and training goes on from the newest checkpoint.
"""

from user_learner.ranks.first import Ranks, is_follower, require_places, unsharded

__all__ = ["Ranks", "is_follower", "require_places", "unsharded"]
