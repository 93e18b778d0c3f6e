"""TCP ports that no other test is given while this process lives."""

from __future__ import annotations

import socket

from user_testing.claims import Claim, claim

# Above the ports that Linux gives to clients, and away from those that DDS computes from a domain.
_PORTS = range(61000, 65500)
_claimed: list[Claim] = []  # kept until the process ends: a port may be used again after a restart


def free_port() -> int:
    """A port on which nobody listens, neither now nor later, but who is told of it."""
    _claimed.append(claim("port", _PORTS, _nobody_listens))
    return _claimed[-1].number


def free_endpoint(protocol: str = "tcp", address: str = "127.0.0.1") -> str:
    """A Zenoh endpoint with a port of its own, ``tcp/127.0.0.1:61234``."""
    return f"{protocol}/{address}:{free_port()}"


def _nobody_listens(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
