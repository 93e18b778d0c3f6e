"""Node ``bridge``: carries topics between this host and the network, through a Zenoh router."""

from __future__ import annotations

import sys
from contextlib import ExitStack

from user_comm.bridge.bridge import Bridge
from user_comm.bridge.config import BridgeConfig
from user_comm.lifecycle import LifecycleNode
from user_comm.run import run


class BridgeNode(LifecycleNode):
    """Carries while it is active; a router that is not there is waited for, in threads."""

    Config = BridgeConfig

    def configure(self, stack: ExitStack) -> None:
        config: BridgeConfig = self.config
        routes = config.all_routes(self.get_namespace())  # what is wrong, is wrong now
        for way in ("out", "in"):
            keys = [route.key for route in routes if route.direction == way]
            self.get_logger().info(f"carries {way}: {', '.join(keys) or 'nothing'}")

    def activate(self, stack: ExitStack) -> None:
        bridge = Bridge(self, self.config, self.get_logger().warning)
        stack.callback(bridge.close)
        for counts in bridge.counts:
            self._show(stack, f"route {counts.route.key} {counts.route.direction}", counts.item)
        for name, link in bridge.links.items():
            self._show(stack, f"link {name}", link.item)
        bridge.start()

    def _show(self, stack: ExitStack, name: str, item: object) -> None:
        self.diagnostics.watch(name, item)  # type: ignore[arg-type]
        stack.callback(self.diagnostics.unwatch, name)


def main() -> int:
    """Entry point."""
    return run(BridgeNode, "bridge")


if __name__ == "__main__":
    sys.exit(main())
