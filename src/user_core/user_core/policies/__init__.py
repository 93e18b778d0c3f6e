"""Policies: built from specs, used by actor and learner alike.

``tanh_gaussian`` needs numpy only while it looks at numbers; torch is imported where pictures
need a convolutional encoder, and in the modules named ``*_torch``, which the learner uses.
"""

from user_core.policies.fingerprint import policy_config_hash

__all__ = ["policy_config_hash"]
