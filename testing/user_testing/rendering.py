"""Whether pictures can be drawn on this machine."""

from __future__ import annotations

import pytest

from user_core.errors import DeviceError
from user_hal.sim.rendering import Renderer
from user_hal.sim.scene import Scene


def _missing() -> str:
    try:
        Renderer(Scene("panda", "reach").model, 16, 16).close()
    except DeviceError as error:
        return str(error)
    return ""


_REASON = _missing()
needs_gl = pytest.mark.skipif(bool(_REASON), reason=_REASON)
