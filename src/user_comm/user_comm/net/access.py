"""Access control of a network's router, as Zenoh takes it: a rule for each certificate's name.

What is not allowed is denied. A robot writes keys below its own name and reads what learners
write; learners read everything, write keys below their own names, and they alone serve policy
versions; a site's router may do what its robots may, and its relay serves them below its name. "Reading" and "writing" each come in two
flows (to the router, from the router) and in several of Zenoh's messages:

==========  ==========================================  =====================================
\\           to the router                               from the router
==========  ==========================================  =====================================
writes      samples, answers, tokens, queryables        others' interest and queries
reads       interest, queries                           samples, answers, tokens, queryables
==========  ==========================================  =====================================

A ``**`` never stands for chunks that begin with ``@``, so those are spelled out: ``@adv`` is
where the cache for late joiners lives, ``@/<id>/@ros2_lv`` where zenoh-bridge-ros2dds and our
bridge say which topics they carry (``MP``: publishers, ``MS``: subscribers, § stands for /).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from user_comm.net.network import Members

_SAYS = ["put", "delete", "reply", "declare_queryable", "liveliness_token"]
_ASKS = ["declare_subscriber", "query", "liveliness_query", "declare_liveliness_subscriber"]
#: Tokens of bridges: everybody may look for them.
BRIDGE_TOKENS = "@/*/@ros2_lv/**"
_PRESENT = "@/*/@ros2_lv"
#: Only members on the host of a ROS graph know its name, and only they can write for it.
_GRAPHS = "@/*/@user_bridge/*/*"
_EVERYTHING = ["**", "**/@adv/**", BRIDGE_TOKENS, _PRESENT, _GRAPHS]


def access_control(members: Members) -> dict[str, Any]:
    """Zenoh's ``access_control`` for a network."""
    rules: list[dict[str, Any]] = []
    policies: list[dict[str, Any]] = []
    subjects: list[dict[str, Any]] = []

    def allow(name: str, writes: Iterable[str], reads: Iterable[str]) -> None:
        mine, theirs = list(writes), list(reads)
        rules.append(_rule(f"{name} says", "ingress", _SAYS, mine))
        rules.append(_rule(f"{name} is asked", "egress", _ASKS, mine))
        rules.append(_rule(f"{name} asks", "ingress", _ASKS, theirs))
        rules.append(_rule(f"{name} is told", "egress", _SAYS, theirs))
        # Interest of others in more than one's own (`*/trajectory`) is no secret.
        rules.append(_rule(f"{name} knows interest", "egress", ["declare_subscriber"], ["**"]))
        subjects.append({"id": name, "cert_common_names": [name]})
        own = [rule["id"] for rule in rules if rule["id"].startswith(f"{name} ")]
        policies.append({"rules": own, "subjects": [name]})

    of_learners = [
        *_keys(*members.learners),
        *_tree(members.policy_key),
        BRIDGE_TOKENS,
        _PRESENT,
        _GRAPHS,
    ]
    for robot in members.robots:
        relays = [site.name for site in members.sites if robot in site.robots]
        allow(robot, [*_keys(robot), *_tokens(robot)], [*of_learners, *_keys(*relays)])
    for site in members.sites:
        mine = [key for robot in site.robots for key in (*_keys(robot), *_tokens(robot))]
        allow(site.name, [*mine, *_keys(site.name)], of_learners)
    # To the router of a site, the network's router is who speaks for the learners.
    above = [key for name in members.learners for key in (*_keys(name), *_tokens(name))]
    allow("router", [*above, *_tree(members.policy_key)], _EVERYTHING)
    for learner in members.learners:
        writes = [*_keys(learner), *_tokens(learner), *_tree(members.policy_key)]
        allow(learner, writes, _EVERYTHING)
    return {
        "enabled": True,
        "default_permission": "deny",
        "rules": rules,
        "subjects": subjects,
        "policies": policies,
    }


def _keys(*names: str) -> list[str]:
    return [key for name in names for key in (f"{name}/**", f"{name}/**/@adv/**")]


def _tree(prefix: str) -> list[str]:
    return [f"{prefix}/**"]


def _tokens(name: str) -> list[str]:
    """What its bridge may say: publishers of its own topics, subscribers of any."""
    return [f"@/*/@ros2_lv/MP/{name}§$*/*/*", "@/*/@ros2_lv/MS/*/*/*", _PRESENT, _GRAPHS]


def _rule(name: str, flow: str, messages: list[str], keys: list[str]) -> dict[str, Any]:
    return {
        "id": name,
        "permission": "allow",
        "flows": [flow],
        "messages": messages,
        "key_exprs": keys,
    }
