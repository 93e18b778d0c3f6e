"""The head of a Ray cluster on this machine, on ports of its own. Ray is looked for on the path, and as
``USER_TEST_RAY``."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from user_testing.ports import free_port


def ray_program() -> str:
    """Where the command `ray` is; empty: nowhere."""
    return os.environ.get("USER_TEST_RAY") or shutil.which("ray") or ""


class RayWorld:
    """A head that runs until it is closed.

    Args:
        folder: For its files.
        cores: How many it has to give.
        ip: Its address.
        prefix: What runs its command line, for instance inside a network namespace.
    """

    def __init__(
        self, folder: Path, cores: int = 2, ip: str = "127.0.0.1", prefix: Sequence[str] = ()
    ) -> None:
        self.folder, self._cores, self._ip, self._prefix = folder, cores, ip, prefix
        self.port = free_port()
        self.address = f"http://{ip}:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, deadline_s: float = 90.0) -> None:
        """Start it, and wait until it takes jobs."""
        first = free_port()
        words = [
            *self._prefix, ray_program(), "start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=true",
            f"--dashboard-host={self._ip}", f"--dashboard-port={self.port}", f"--port={first}",
            f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}",
            f"--metrics-export-port={free_port()}", f"--ray-client-server-port={free_port()}",
            f"--node-ip-address={self._ip}", f"--num-cpus={self._cores}", f"--temp-dir={self.folder}/ray",
            "--object-store-memory=80000000",
        ]  # fmt: skip
        with (self.folder / "ray.log").open("wb") as log:
            self._process = subprocess.Popen(
                words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "RAY_JOB_STOP_WAIT_TIME_S": "30"},
            )  # fmt: skip
        until_s = time.monotonic() + deadline_s
        while True:
            asks = f"from urllib.request import urlopen; urlopen({self.address!r} + '/api/jobs/', timeout=2)"
            words = [*self._prefix, sys.executable, "-S", "-c", asks]
            if subprocess.run(words, capture_output=True).returncode == 0:
                return
            if time.monotonic() > until_s or self._process.poll() is not None:
                self.close()
                raise TimeoutError((self.folder / "ray.log").read_text()[-3000:])
            time.sleep(0.5)

    def close(self) -> None:
        """End the head and all that it has started."""
        from user_fleet.processes import session_members

        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15.0)
        for pid in [*session_members([process.pid]), *_of_folder(str(self.folder))]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _of_folder(folder: str) -> list[int]:
    """Ray's own processes, whose command lines or variables name its folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if f"{folder}/ray" in words:
                found.append(int(entry.name))
    return found
