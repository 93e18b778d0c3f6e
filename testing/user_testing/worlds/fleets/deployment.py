"""A deployment that `user up` runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from user_testing.waiting import wait_until


class DeploymentRun:
    """A run of `user up`, by what it writes into its folder."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder, self.process = folder, process

    def states(self) -> list[dict[str, Any]]:
        file = self.folder / "history.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:  # being written
                continue
        return [line for line in found if line["kind"] == "state"]

    def number(self, name: str) -> float:
        return next((s[name] for s in reversed(self.states()) if name in s), 0)

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 240.0) -> None:
        """Wait for something, as long as `user up` runs; the error shows the logs."""

        def so_or_ended() -> bool:
            assert self.process.poll() is None, f"user up ended with {self.process.returncode}"
            return bool(condition())

        wait_until(so_or_ended, what, timeout_s, seen=self.logs, period_s=0.1)

    def pid(self, name: str) -> int:
        wanted = str(self.folder / "config" / f"{name}.yaml").encode()
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and wanted in (entry / "cmdline").read_bytes().split(b"\0"):
                    return int(entry.name)
            except OSError:
                continue
        return 0

    def logs(self) -> str:
        return "\n".join(
            f"== {file.name}\n" + "\n".join(file.read_text().splitlines()[-12:])
            for file in sorted((self.folder / "logs").glob("*.log"))
        )
