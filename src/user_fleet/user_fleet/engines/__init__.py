"""Engines that run the learner of an experiment: the GPUs are theirs, the robots are ours (:mod:`user_core.jobs`)."""
