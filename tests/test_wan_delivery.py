"""Outbox and store on hosts that are apart: a bad link is cut again and again, nothing is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from user_testing.link_emulator import unavailable

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "links" / "wan.py"


@pytest.mark.slow
@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_what_was_collected_through_cuts_is_stored_once() -> None:
    words = ["cuts", "--cuts", "4", "--scale", "0.03"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *words], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "steps collected" in done.stdout
