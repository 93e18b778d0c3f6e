"""Cores, memory, disk and GPUs of a host."""

from types import SimpleNamespace

import psutil
import pytest

from user_fleet.resources.machine import gpus, host_and_cpu


class Nvml:
    """As much of pynvml as a host with these GPUs has."""

    class NVMLError(Exception):
        pass

    def __init__(self, *cards: SimpleNamespace) -> None:
        self.cards, self.open = cards, False

    def nvmlInit(self):
        self.open = True

    def nvmlShutdown(self):
        self.open = False

    def nvmlDeviceGetCount(self):
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, number):
        if self.cards[number] is None:
            raise self.NVMLError("GPU is lost")
        return self.cards[number]

    def nvmlDeviceGetMemoryInfo(self, card):
        return SimpleNamespace(total=card.total, free=card.free)

    def nvmlDeviceGetUUID(self, card):
        return card.uuid

    def nvmlDeviceGetName(self, card):
        return card.name

    def nvmlDeviceGetUtilizationRates(self, card):
        return SimpleNamespace(gpu=25)

    def nvmlDeviceGetMigMode(self, card):
        if card.mig is None:
            raise self.NVMLError("Not Supported")
        return [card.mig, card.mig]

    def nvmlDeviceGetComputeRunningProcesses(self, card):
        return [SimpleNamespace(pid=4711)]


def _card(uuid: str, **changes) -> SimpleNamespace:
    whole = {
        "uuid": uuid,
        "name": b"NVIDIA H200",
        "total": 80 * 2**30,
        "free": 79 * 2**30,
        "mig": 0,
    }
    return SimpleNamespace(**{**whole, **changes})


def test_a_host_says_what_it_has():
    host, cpu = host_and_cpu("h1", "hall")
    assert host.amounts["memory_bytes"] == psutil.virtual_memory().total
    assert 0 < host.amounts["disk_free_bytes"] <= host.amounts["disk_bytes"]
    assert cpu.amounts["cores"] >= 1
    assert cpu.id == "h1/cpu/cpu"
    assert cpu.site == "hall"


def test_a_folder_for_runs_that_is_not_there_yet_will_be_on_the_disk_above_it(tmp_path):
    host, _ = host_and_cpu("h1", folder=tmp_path / "fleet" / "runs")
    assert host.amounts["disk_bytes"] == psutil.disk_usage(str(tmp_path)).total


def test_gpus_are_named_by_uuid_and_each_says_whether_it_is_free():
    nvml = Nvml(
        _card("GPU-1", mig=None),
        _card("GPU-2", free=10 * 2**30),
        _card("GPU-3", mig=1),
        None,
    )
    found, problems = gpus("h1", nvml=nvml)
    assert [(item.name, item.health) for item in found] == [
        ("GPU-1", "ready"),
        ("GPU-2", "busy"),
        ("GPU-3", "incomplete"),
    ]
    assert found[0].model == "NVIDIA H200"
    assert found[0].memory_gb == pytest.approx(80)
    assert found[0].amounts["utilisation"] == 0.25
    assert "10.0 of 80.0 GiB" in found[1].reason and "4711" in found[1].reason
    assert "MIG" in found[2].reason
    assert [(p.what, p.text) for p in problems] == [("gpu 3", "GPU is lost")]
    assert not nvml.open


def test_a_host_without_gpus_has_none_and_no_problem():
    class Without(Nvml):
        def nvmlInit(self):
            raise self.NVMLError("Driver Not Loaded")

    assert gpus("h1", nvml=Without()) == ([], [])
