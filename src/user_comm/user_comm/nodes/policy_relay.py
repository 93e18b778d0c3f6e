"""Node ``policy_relay``: fetches policy versions once for a site, and serves its robots."""

from __future__ import annotations

import sys
from contextlib import ExitStack

from user_comm import topics
from user_comm.converters import PolicyAnnouncement
from user_comm.diagnostics import Flow, FlowFigures
from user_comm.lifecycle import LifecycleNode
from user_comm.logs import bridge_logging
from user_comm.net.sessions import open_session
from user_comm.policy_blobs.config import PolicyRelayConfig
from user_comm.policy_blobs.relay import PolicyRelay
from user_comm.run import run


class PolicyRelayNode(LifecycleNode):
    """Hears of versions on ``policy``, where the site's bridge brings them."""

    Config = PolicyRelayConfig

    def configure(self, stack: ExitStack) -> None:
        config: PolicyRelayConfig = self.config
        stack.callback(bridge_logging(self.get_logger(), "user_comm"))
        self._announced: PolicyAnnouncement | None = None
        self._relay: PolicyRelay | None = None
        self.listen(topics.POLICY, self._take, always=True)
        self.get_logger().info(f"serves below {config.key}")

    def activate(self, stack: ExitStack) -> None:
        config: PolicyRelayConfig = self.config
        relay = stack.enter_context(
            PolicyRelay(
                lambda ending: open_session(config.zenoh, ending),
                config.key,
                keep=config.keep,
                keep_bytes=config.keep_bytes,
            )
        )
        for name, figures in (
            ("policy", relay.figures),
            ("policy served", lambda: FlowFigures(bytes=relay.served_bytes)),
        ):
            flow = Flow(name, figures)
            self.diagnostics.watch(flow.name, flow.item)
            stack.callback(self.diagnostics.unwatch, flow.name)
        self._relay = relay
        stack.callback(self._forget)
        if self._announced is not None:
            relay.announced(self._announced)

    def _take(self, announcement: PolicyAnnouncement) -> None:
        self._announced = announcement
        if self._relay is not None:
            self._relay.announced(announcement)

    def _forget(self) -> None:
        self._relay = None


def main() -> int:
    """Entry point."""
    return run(PolicyRelayNode, "policy_relay")


if __name__ == "__main__":
    sys.exit(main())
