"""ROS domains that no other test uses meanwhile, also not one of another pytest beside us."""

from __future__ import annotations

from user_core.runtime.dds.half_made_ports import mend_half_made_ports
from user_testing.claims import Claim, claim

# DDS computes ports from the domain; up to 101 they stay below the ports that Linux gives to clients.
_DOMAINS = range(10, 102)


def claim_domain() -> Claim:
    """A ROS_DOMAIN_ID; release it when all that uses it has ended."""
    mend_half_made_ports()  # tests kill processes, in this domain, too
    return claim("domain", _DOMAINS)
