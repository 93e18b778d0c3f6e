"""Jobs of Slurm, handed over by submitit (an extra)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from user_core.config import setting
from user_core.errors import ConfigError, EngineError, EngineSilent
from user_core.jobs import Engine, EngineConfig, Job, JobState, Phase
from user_core.reasons import JOB_FAILED, JOB_GONE, JOB_WAITS, NO_REASON, Reason
from user_fleet.engines.local import read_from

#: What Slurm says, to where a job is; what is not here still runs.
_PHASES: dict[str, Phase] = {
    "PENDING": "waiting", "CONFIGURING": "waiting", "REQUEUED": "waiting", "REQUEUE_HOLD": "waiting",
    "REQUEUE_FED": "waiting", "SPECIAL_EXIT": "waiting", "RESV_DEL_HOLD": "waiting",
    "COMPLETED": "done", "CANCELLED": "cancelled", "REVOKED": "cancelled",
    "FAILED": "failed", "BOOT_FAIL": "failed", "DEADLINE": "failed", "NODE_FAIL": "failed",
    "OUT_OF_MEMORY": "failed", "TIMEOUT": "failed", "PREEMPTED": "failed",
}  # fmt: skip
_ASK_S = 15.0


class SlurmConfig(EngineConfig):
    """What is asked of Slurm. Options of sbatch that are not here go into ``more``."""

    partition: str = setting("", doc="Partition; empty: Slurm's default.")
    gpus: int | None = setting(None, doc="GPUs; null: as many as the role was granted.", ge=0)
    cores: int = setting(0, doc="Cores; 0: Slurm's default.", ge=0)
    memory_gb: float = setting(0.0, doc="Memory; 0: Slurm's default.", unit="GiB", ge=0)
    minutes: int = setting(24 * 60, doc="Longest time it may run.", unit="min", ge=1)
    more: dict[str, Any] = setting(
        factory=dict, doc="Other options of sbatch: {account: lab, qos: high}."
    )


class SlurmEngine(Engine):
    """``sbatch`` on this host, through submitit; the job's output is in its folder, on a disk that the nodes share."""

    Config = SlurmConfig
    logs_late_s = 1.0

    def submit(self, job: Job) -> str:
        """Hand it over. Raises EngineError with Slurm's own words where it refuses."""
        try:
            import submitit
        except ImportError:
            raise EngineError(
                "engine slurm", got="submitit is not installed",
                hint="Install it with `pip install -r requirements/extra_slurm.txt`",
            ) from None  # fmt: skip
        if shutil.which("sbatch") is None:
            raise ConfigError(
                "the command `sbatch`", got="not on the path",
                hint="An agent has to run on a host from which jobs are given to Slurm",
            )  # fmt: skip
        config: SlurmConfig = self.config
        executor = submitit.SlurmExecutor(folder=job.folder / "slurm")
        gpus = config.gpus if config.gpus is not None else int(job.resources.get("gpus", 0))
        more: dict[str, Any] = {"open_mode": "append", "requeue": False, **config.more}
        executor.update_parameters(
            job_name=job.name,
            time=config.minutes,
            nodes=1,
            ntasks_per_node=1,
            use_srun=False,
            stderr_to_stdout=True,
            # Without a trap the shell of the batch ends at once, and with it, for Slurm, the job: what runs
            # in it would go on on its own, or be killed. With one it waits for what it started.
            setup=["trap : TERM INT"],
            **({"partition": config.partition} if config.partition else {}),
            **({"gres": f"gpu:{gpus}"} if gpus else {}),
            **({"cpus_per_task": config.cores} if config.cores else {}),
            **({"mem": f"{config.memory_gb * 1024:.0f}M"} if config.memory_gb else {}),
            additional_parameters={k: v for k, v in more.items() if v is not False},
        )
        try:
            made = executor.submit(_run_to_its_end, ["/bin/sh", "-c", self.script(job)])
        except submitit.core.utils.FailedJobError as error:  # with what sbatch said
            text = " ".join(str(error).split())
            silent = "Unable to contact slurm" in text or "Connection refused" in text
            raise (EngineSilent if silent else EngineError)("slurm", got=text[-400:]) from error
        return f"{made.job_id}:{made.paths.stdout}"

    def state(self, number: str) -> JobState:
        """From squeue and scontrol, and sacct where Slurm keeps accounts."""
        job = number.partition(":")[0]
        found = _ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%B|%r")
        line = found.splitlines()[0] if found else ""
        if not line:
            line = _ask("sacct", "--noheader", "--parsable2", "-X", f"--jobs={job}", "--format=State,NodeList")  # fmt: skip
            line = f"{line.splitlines()[0]}|None" if line else ""
        if not line:
            return JobState("gone", Reason(JOB_GONE, f"slurm knows no job {job}"))
        word, where, why = [*line.split("|"), "", ""][:3]
        phase = _PHASES.get(word.split()[0].rstrip("+"), "running")
        text = f"slurm job {job}: {word.lower()}" + ("" if why in ("None", "") else f" ({why})")
        reason = NO_REASON
        if phase in ("waiting", "failed"):
            reason = Reason(JOB_WAITS if phase == "waiting" else JOB_FAILED, text)
        return JobState(phase, reason, "" if where in ("n/a", "None assigned") else where)

    def cancel(self, number: str) -> None:
        """SIGTERM to all of it, and Slurm's own end after its ``KillWait``."""
        _ask("scancel", number.partition(":")[0])

    def logs(self, number: str, offset: int = 0) -> bytes:
        """From the file that Slurm writes."""
        return read_from(Path(number.partition(":")[2]), offset)


def _run_to_its_end(command: list[str]) -> None:
    """On the node: run the command, print what it prints, and end as it does."""
    import signal

    # Slurm tells the whole job, and what is started here ends in order; this waits for it. A signal
    # before the command is there would be this process's end, and Slurm would kill what it left.
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: told.append(number))
    process = subprocess.Popen(command)
    for early in told:
        process.send_signal(early)
    code = process.wait()
    if code:
        raise SystemExit(code)


def _ask(*words: str) -> str:
    """What a command of Slurm answers; empty where it knows no such job. Raises EngineSilent."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_ASK_S, check=False)
    except FileNotFoundError as error:
        raise EngineSilent("slurm", got=f"no command {words[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise EngineSilent("slurm", got=f"{words[0]} has not answered for {_ASK_S:g} s") from error
    if done.returncode and not any(
        known in done.stderr for known in ("Invalid job id", "accounting storage", "already completing")
    ):  # fmt: skip
        raise EngineSilent("slurm", got=f"{words[0]}: {done.stderr.strip()[-300:]}")
    return done.stdout.strip() if not done.returncode else ""
