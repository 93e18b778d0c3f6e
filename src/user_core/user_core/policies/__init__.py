"""Policies: built from specs, used by actor and learner alike.

``tanh_gaussian`` acts with numpy alone while it looks at numbers only; its network for training
is in torch. A policy that is nothing but a torch network extends
:class:`~user_core.policies.torch_policy.TorchPolicy`.
"""

from user_core.policies.fingerprint import (
    differences_in_words,
    policy_config_hash,
    policy_made_for,
)

__all__ = ["differences_in_words", "policy_config_hash", "policy_made_for"]
