"""A whole Slurm on this machine: munge, controller and one node, in a folder and on ports of their own."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from user_testing.ports import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")


def missing() -> str:
    """Which of the programs is not there; empty when all are."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return next((name for name in PROGRAMS if shutil.which(name, path=path) is None), "")


class SlurmWorld:
    """Runs until it is closed.

    Args:
        folder: For configuration, spool and logs; its path must be short (a socket is in it).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        for name in ("spool", "state", "munge"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        (folder / "munge").chmod(0o711)
        key = folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self.socket = folder / "munge" / "socket"
        self.file = folder / "slurm.conf"
        self.file.write_text(self._configuration())
        (folder / "cgroup.conf").write_text("IgnoreSystemd=yes\n")
        self.environment = {"SLURM_CONF": str(self.file)}

    def _configuration(self) -> str:
        host, user, folder = socket.gethostname().split(".")[0], getpass.getuser(), self.folder
        cores = os.cpu_count() or 1
        return "\n".join(
            (
                "ClusterName=test", f"SlurmctldHost={host}(127.0.0.1)", f"SlurmUser={user}", f"SlurmdUser={user}",
                "AuthType=auth/munge", f"AuthInfo=socket={self.socket}", "CredType=cred/munge",
                f"SlurmctldPort={free_port()}", f"SlurmdPort={free_port()}",
                f"StateSaveLocation={folder}/state", f"SlurmdSpoolDir={folder}/spool",
                f"SlurmctldPidFile={folder}/ctld.pid", f"SlurmdPidFile={folder}/d.pid",
                "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "SwitchType=switch/none", "MpiDefault=none",
                "JobAcctGatherType=jobacct_gather/none", "AccountingStorageType=accounting_storage/none",
                "SelectType=select/cons_tres", "SelectTypeParameters=CR_Core", "SchedulerType=sched/builtin",
                "ReturnToService=2", "KillWait=30", "MinJobAge=60",
                f"NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=512 State=UNKNOWN",
                f"PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8", "",
            )
        )  # fmt: skip

    def start(self, deadline_s: float = 30.0) -> None:
        """Start all of it, and wait until the node takes jobs."""
        munge = self.folder / "munge"
        self._start(
            "munged", "--foreground", "--force", f"--socket={self.socket}", f"--key-file={munge}/key", f"--pid-file={munge}/pid",
            f"--seed-file={munge}/seed", f"--log-file={munge}/log",
        )  # fmt: skip
        until_s = time.monotonic() + deadline_s
        while not self.socket.exists():
            self._patience(until_s, "munged")
        self.start_controller()
        self._start("slurmd", "-D", "-f", str(self.file))
        while "idle" not in self.ask("sinfo", "--noheader", "--format=%t"):
            self._patience(until_s, "slurmd")

    def start_controller(self) -> None:
        """Start slurmctld, again where it was killed."""
        self.controller = self._start("slurmctld", "-D", "-f", str(self.file))

    def ask(self, *words: str) -> str:
        """What a command of Slurm prints; empty where it fails."""
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **self.environment},
        )
        return done.stdout.strip()

    def close(self) -> None:
        """End all of it, with its jobs."""
        with contextlib.suppress(OSError):
            self.ask("scancel", "--user", getpass.getuser())
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        program = shutil.which(name, path=path)
        assert program is not None, f"{name} is not installed"
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [program, *words], stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, **self.environment},
            )  # fmt: skip
        self._processes.append(process)
        return process

    def _patience(self, until_s: float, who: str) -> None:
        if time.monotonic() > until_s:
            logs = [f"{f.name}: {f.read_text()[-1500:]}" for f in self.folder.glob("*.log")]
            self.close()
            raise TimeoutError(f"{who} did not come up:\n" + "\n".join(logs))
        time.sleep(0.1)


def logs_of(world: SlurmWorld) -> Iterator[str]:
    """Ends of its logs, for a failed test."""
    for file in sorted(world.folder.glob("*.log")):
        yield f"{file.name}: {file.read_text()[-2000:]}"
