"""The change_state service of a lifecycle node, made fit for real use.

rclpy on Jazzy lets a transition that is not possible in the present state (``ros2 lifecycle
set /hal activate`` while unconfigured) raise out of the service's callback, which ends the
process; and two transitions at a time are possible there and on Kilted when a node also
changes its state by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lifecycle_msgs.msg import Transition

if TYPE_CHECKING:
    from user_comm.lifecycle import LifecycleNode

_GIVES_UP = (
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    Transition.TRANSITION_INACTIVE_SHUTDOWN,
    Transition.TRANSITION_ACTIVE_SHUTDOWN,
)
_GIVES_UP_LABELS = ("deactivate", "cleanup", "shutdown")


def guard_change_state(node: LifecycleNode) -> None:
    """Put our own handler in front of rclpy's."""
    service = node._service_change_state
    inner = service.callback

    def change_state(request: Any, response: Any) -> Any:
        asked = request.transition
        with node._transition_lock:
            if asked.label in _GIVES_UP_LABELS or (not asked.label and asked.id in _GIVES_UP):
                node.autostart.give_up()
            before = node.state
            try:
                response = inner(request, response)
            except Exception as error:  # RCLError, which rclpy does not export everywhere
                node.get_logger().error(
                    f"transition {asked.label or asked.id} is not possible from {before}: {error}"
                )
                response.success = False
            node.transition_ended()
        return response

    service.callback = change_state
