"""What every host has: cores, memory, disk (psutil), and GPUs (nvidia-ml-py, where it is there)."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import platform
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from user_core.reasons import DEVICE, GPU_DIVIDED, GPU_IN_USE, Reason
from user_core.runtime.scheduling import cores
from user_fleet.resources.model import Problem, Resource, clean_name

#: A GPU counts as used by others when less than this share of its memory is free.
_FREE_SHARE = 0.5


def host_and_cpu(host: str, site: str = "", folder: Path | None = None) -> list[Resource]:
    """The host itself, with its memory and the disk of ``folder``, and its cores.

    A ``folder`` that nobody has made yet will be on the disk of the nearest one above it.
    """
    memory = psutil.virtual_memory()
    folder = (folder or Path.home()).absolute()
    disk = psutil.disk_usage(str(next(at for at in (folder, *folder.parents) if at.exists())))
    model = _cpu_model()
    shared = {
        "memory_bytes": float(memory.total),
        "memory_free_bytes": float(memory.available),
    }
    return [
        Resource(
            id=f"{host}/host/{host}",
            kind="host",
            site=site,
            model=f"{platform.system()} {platform.machine()}",
            amounts={
                **shared,
                "disk_bytes": float(disk.total),
                "disk_free_bytes": float(disk.free),
            },
            source="psutil",
        ),
        Resource(
            id=f"{host}/cpu/cpu",
            kind="cpu",
            site=site,
            model=model[:256],
            amounts={
                **shared,
                "cores": float(cores()),
                "load_1min": float(os.getloadavg()[0]),
            },
            source="psutil",
        ),
    ]


def gpus(host: str, site: str = "", nvml: Any = None) -> tuple[list[Resource], list[Problem]]:
    """NVIDIA GPUs; nothing where there is no driver for any.

    A GPU that is divided (MIG) is listed as what it is, and is not ready: its instances belong
    to whoever has divided it. Nothing about a GPU is changed.

    Args:
        host: Name of this host.
        site: Its place.
        nvml: The module ``pynvml``; None: the installed one.
    """
    if nvml is None and (nvml := _installed_nvml()) is None:
        if not Path("/proc/driver/nvidia").exists():
            return [], []
        text = "there is an NVIDIA driver, and no nvidia-ml-py to ask it with"
        return [], [Problem(what="gpus", code="plugin", text=f"{text}. pip install nvidia-ml-py")]
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        if Path("/proc/driver/nvidia").exists():
            return [], [Problem(what="gpus", code=DEVICE, text=f"NVML does not start: {error}")]
        return [], []
    try:
        found, problems = [], []
        for number in range(nvml.nvmlDeviceGetCount()):
            try:
                found.append(_gpu(nvml, number, host, site))
            except nvml.NVMLError as error:  # fell off the bus; the others are fine
                problems.append(Problem(what=f"gpu {number}", code=DEVICE, text=str(error)))
        return found, problems
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _installed_nvml() -> Any | None:
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def _gpu(nvml: Any, number: int, host: str, site: str) -> Resource:
    device = nvml.nvmlDeviceGetHandleByIndex(number)
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    uuid = _words(nvml.nvmlDeviceGetUUID(device))
    amounts = {
        "memory_bytes": float(memory.total),
        "memory_free_bytes": float(memory.free),
        "index": float(number),
    }
    with contextlib.suppress(nvml.NVMLError):  # not on every model
        amounts["utilisation"] = nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100
    found = Resource(
        id=f"{host}/gpu/{clean_name(uuid, f'gpu{number}')}",
        kind="gpu",
        site=site,
        model=_words(nvml.nvmlDeviceGetName(device))[:256],
        serial=uuid[:128],
        amounts=amounts,
        source="nvidia-ml-py",
    )
    if _is_divided(nvml, device):
        return found.unwell("incomplete", Reason(GPU_DIVIDED, "divided by MIG; left alone"))
    if memory.total and memory.free < _FREE_SHARE * memory.total:
        users = list(_users(nvml, device))
        text = f"{memory.free / 2**30:.1f} of {memory.total / 2**30:.1f} GiB are free"
        who = f"; used by process {', '.join(map(str, users))}" if users else ""
        return found.unwell("busy", Reason(GPU_IN_USE, text + who))
    return found


def _is_divided(nvml: Any, device: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(device)[0])
    except (nvml.NVMLError, AttributeError):  # a model, or a library, that knows no MIG
        return False


def _users(nvml: Any, device: Any) -> Iterator[int]:
    with contextlib.suppress(nvml.NVMLError):
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(device)[:8]:
            yield int(process.pid)


def _words(text: str | bytes) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def address_toward(endpoint: str = "") -> str:
    """The address of this host that others see who are reached through an endpoint, ``tls/HOST:PORT``.

    For an endpoint on this host, and without one, that of its default route. Nothing is sent.
    """
    host = endpoint.partition("/")[2].rpartition(":")[0].strip("[]")
    for target in filter(
        None, (host, "192.0.2.1", "2001:db8::1")
    ):  # the last two are for documentation only
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                with socket.socket(family, socket.SOCK_DGRAM) as probe:
                    probe.connect((target, 9))
                    found = str(probe.getsockname()[0])
            except (OSError, UnicodeError):
                continue
            if not ipaddress.ip_address(found.partition("%")[0]).is_loopback:
                return found
    return "127.0.0.1"
