"""Jobs as processes of this host, alone or under torchrun."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from user_core.config import setting
from user_core.errors import ConfigError, EngineError
from user_core.jobs import Engine, EngineConfig, Job, JobState, one_rank_only
from user_core.reasons import JOB_FAILED, JOB_GONE, Reason
from user_fleet.processes import is_alive, started_ticks


class LocalEngine(Engine):
    """A process of this host, which ends when whoever has started it does."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def submit(self, job: Job) -> str:
        """Start it. What it is called is its process id, when it began, and where its output is."""
        job.folder.mkdir(parents=True, exist_ok=True)
        log = job.folder / f"{job.name}.out"
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    self.words(job), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
                )  # fmt: skip
        except OSError as error:
            raise EngineError(f"job {job.name}", got=str(error), expected="a program") from error
        number = f"{process.pid}:{started_ticks(process.pid)}:{log}"
        self._processes[number] = process
        return number

    def words(self, job: Job) -> list[str]:
        """The command line of a job."""
        return ["/bin/sh", "-c", self.script(job)]

    def state(self, number: str) -> JobState:
        """Whether the process lives; how it ended is known to who has started it only."""
        process = self._processes.get(number)
        if process is None:
            pid, began, _ = _parts(number)
            if is_alive(pid) and started_ticks(pid) == began:
                return JobState("running")
            return JobState("gone", Reason(JOB_GONE, f"process {pid} has ended"))
        code = process.poll()
        if code is None:
            return JobState("running")
        if code == 0:
            return JobState("done")
        return JobState("failed", Reason(JOB_FAILED, f"ended with code {code}"))

    def cancel(self, number: str) -> None:
        """Like Ctrl-C."""
        pid, began, _ = _parts(number)
        if is_alive(pid) and started_ticks(pid) == began:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)

    def logs(self, number: str, offset: int = 0) -> bytes:
        """From the file of its output."""
        return read_from(Path(_parts(number)[2]), offset)


class TorchrunConfig(EngineConfig):
    """How torchrun starts the learner."""

    nodes: int = setting(1, doc="Hosts over which it is spread.", ge=1)
    rendezvous: str = setting("", doc="HOST:PORT where the processes meet; empty: on this host.")
    max_restarts: int = setting(0, doc="How often torchrun starts a failed learner again.", ge=0)

    def validate(self) -> None:
        super().validate()
        one_rank_only("nodes", self.nodes)


class TorchrunEngine(LocalEngine):
    """A process of this host under torchrun, which gives it RANK, WORLD_SIZE and where ranks meet.

    That process starts those of other GPUs of the host itself (``gpus:=4`` among the arguments of the run): more ranks
    are refused when the experiment is read.
    """

    Config = TorchrunConfig

    def words(self, job: Job) -> list[str]:
        """The command line, by way of torchrun."""
        program = shutil.which("torchrun") or str(Path(sys.executable).with_name("torchrun"))
        if not os.access(program, os.X_OK):
            raise ConfigError("torchrun", got="not on the path", hint="Install PyTorch")
        config: TorchrunConfig = self.config
        words = [program, "--nproc-per-node", str(config.ranks), "--nnodes", str(config.nodes)]
        words += ["--max-restarts", str(config.max_restarts)]
        if config.rendezvous:
            words += ["--rdzv-backend", "c10d", "--rdzv-endpoint", config.rendezvous]
        else:
            words += ["--standalone"]
        return [*words, "--no-python", "/bin/sh", "-c", self.script(job)]


def read_from(file: Path, offset: int, most: int = 2**20) -> bytes:
    """What a file has from a byte on; empty where it is not there."""
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            return stream.read(most)
    except OSError:
        return b""


def _parts(number: str) -> tuple[int, int, str]:
    pid, began, log = number.split(":", 2)
    return int(pid), int(began), log
