"""scheduler: gives robots, GPUs and cores of many hosts to experiments (:mod:`user_fleet.scheduling`)."""

from __future__ import annotations

from contextlib import ExitStack

from user_comm.diagnostics import Item, Level
from user_comm.lifecycle import LifecycleNode
from user_comm.net.sessions import open_session
from user_comm.run import run
from user_core.reasons import NO_REASON, Reason
from user_fleet.node_configs import SchedulerNodeConfig, fleet_file
from user_fleet.presence.running import WorkingScheduler


class SchedulerNode(LifecycleNode):
    """Decides while it is active, and stands by while another scheduler works on the same file."""

    Config = SchedulerNodeConfig

    def configure(self, stack: ExitStack) -> None:
        """Open the file."""
        config: SchedulerNodeConfig = self.config
        self._standby = NO_REASON
        self._work = WorkingScheduler(
            fleet_file(config.state),
            lambda: open_session(config.zenoh),
            name=config.name,
            decide=config.decide,
            presence=config.presence,
            take_over_s=config.take_over_s,
        )
        stack.callback(self._work.close)
        self.diagnostics.watch("fleet", self._item)

    def activate(self, stack: ExitStack) -> None:
        """Decide."""
        self.every(self.config.step_s, self._step)

    def _step(self) -> None:
        standby: Reason = self._work.step()
        if bool(standby) != bool(self._standby):
            self.get_logger().info(f"stands by: {standby}" if standby else "works")
        self._standby = standby

    def _item(self) -> Item:
        hosts = self._work.hosts
        if hosts is None:
            return Item(
                "fleet", Level.OK, f"stands by: {self._standby}" if self._standby else "begins"
            )
        states = hosts.states()
        away = [state.host for state in states if hosts.why_away(state)]
        refused = sum(hosts.refused.values())
        text = f"{len(states) - len(away)} of {len(states)} hosts are there"
        values = {"away": ", ".join(away[:10]), "refused": str(refused)}
        return Item("fleet", Level.WARN if away else Level.OK, text, values)


def main() -> None:
    """Run the node."""
    run(SchedulerNode, "scheduler")


if __name__ == "__main__":
    main()
