import json
import os
from types import SimpleNamespace

import pytest

from user_bringup.monitor.memory import MemoryWatch
from user_bringup.report import RunSeries, write_report
from user_core.errors import SuiteError


def state(t, **numbers):
    return {"t": t, "kind": "state", "actor_rate_hz": 10.0, "policy_age_s": 2.0, **numbers}


def episode(t, outcome, source=0):
    return {"t": t, "kind": "episode", "source": source, "outcome": outcome, "episode_return": 1.0}


def history():
    lines = []
    for second in range(120):
        learner = (
            {
                "environment_steps": 10 * second, "update": 40 * second, "utd_ratio": 4.0,
                "updates_per_s": 40.0, "policy_version": second, "actor_version": second - 1,
                "store_bytes": 1e6, "metrics": {"critic_loss": 1 / (1 + second)},
            }
            if second > 10
            else {}
        )  # fmt: skip
        lines.append(state(1000.0 + second, **learner))
        if second % 4 == 0:
            lines.append(episode(1000.0 + second, 1 if second > 60 else 3, second % 8 // 4 * 2))
    return lines


def test_curves_run_over_time_and_over_steps():
    series = RunSeries(history())
    success = series.success(0, window=5)
    assert len(success) == 15
    assert success.values[0] == 0
    assert success.values[-1] == 1
    assert success.minutes[-1] == pytest.approx(112 / 60)
    assert success.steps[-1] == pytest.approx(1120)
    assert series.metric_names() == ["critic_loss"]
    assert len(series.state("update")) == 109
    assert len(series.state("no such number")) == 0


def test_the_report_is_written_with_its_plots(tmp_path):
    run = tmp_path / "run1"
    run.mkdir()
    (run / "history.jsonl").write_text("\n".join(map(json.dumps, history())))
    (run / "evaluation.json").write_text(
        json.dumps({"successes": 19, "episodes": 20, "mean_return": 0.95, "policy_version": 119})
    )
    text = write_report(run).read_text()
    assert "19 of 20 episodes succeed" in text
    assert "environment steps | 1190" in text
    for name in ("learning", "rates", "staleness", "metrics"):
        assert f"plots/{name}.png" in text
        assert (run / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_has_just_begun_has_a_report_too(tmp_path):
    (tmp_path / "history.jsonl").write_text(json.dumps(state(0.0)) + "\n")
    assert "# Run" in write_report(tmp_path).read_text()


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(SuiteError, match="no run in"):
        write_report(tmp_path)


def test_several_robots_are_shown_apart(tmp_path):
    lines = []
    for second in range(200):
        robots = {
            "left": {"steps": 10 * second, "version": second, "age_s": 1.0, "success": 1.0},
            "right": {"steps": 5 * second, "version": second // 2, "age_s": 8.0, "success": 0.0},
        }
        if second > 150:
            del robots["right"]  # it has left
        lines.append(state(1000.0 + second, robots=robots))
        if second % 5 == 0:
            for robot, outcome in (("left", 1), ("right", 3)):
                lines.append({**episode(1000.0 + second, outcome), "robot": robot, "length": 10})
    lines[-1]["flags"] = lines[-3]["flags"] = ["right: 0 of its last 20 episodes [below_peers]"]
    (tmp_path / "history.jsonl").write_text("\n".join(map(json.dumps, lines)))
    text = write_report(tmp_path).read_text()
    assert "| left | 40 | 100% of 20 (84 to 100%) | 400 | v199 | 1.0 s, 1.0 s |" in text
    assert "| right | 40 | 0% of 20 (0 to 16%) | 400 | v75 | 8.0 s, 8.0 s |" in text
    assert text.count("- right: 0 of its last 20 episodes [below_peers]") == 1
    assert "plots/robots.png" in text
    series = RunSeries(lines)
    assert series.robots == ["left", "right"]
    assert series.success_of("left").values[-1] == 1 and series.success_of("right").values[-1] == 0


def test_memory_is_drawn_over_time(tmp_path):
    held = {"learner": 3_000_000_000, "hal": 200_000_000}
    lines = [
        state(
            1000.0 + s,
            memory={**held, "learner": held["learner"] + s * 10**6},
            gpu_memory=[9 * 10**9],
        )
        for s in range(0, 60, 5)
    ]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    series = RunSeries(lines)
    assert series.kinds == ["learner", "hal"] and series.gpus == 1
    assert series.memory("learner").values[-1] == pytest.approx(3.055)
    assert series.gpu_memory(0).values == pytest.approx([9.0] * 12)
    write_report(tmp_path)
    assert (tmp_path / "plots" / "memory.png").stat().st_size > 5000


def test_memory_is_that_of_processes_of_a_kind_together():
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    watch = MemoryWatch(
        lambda: {"robot0.hal0": os.getpid(), "hal1": os.getpid(), "gone": 2**22 - 3}
    )
    watch.look()
    assert set(watch.of_processes) == {"hal"}
    assert 128 << 20 < watch.of_processes["hal"] < 8 << 30
    del block


def test_memory_of_gpus_is_what_is_in_use(monkeypatch):
    class Nvml(SimpleNamespace):
        NVMLError = ValueError

    memory = SimpleNamespace(total=100, free=30)
    nvml = Nvml(
        nvmlInit=lambda: None, nvmlShutdown=lambda: None, nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda number: number, nvmlDeviceGetMemoryInfo=lambda card: memory,
        nvmlDeviceGetUUID=lambda card: "GPU-1", nvmlDeviceGetName=lambda card: "H200",
        nvmlDeviceGetUtilizationRates=lambda card: SimpleNamespace(gpu=1),
        nvmlDeviceGetMigMode=lambda card: [0, 0], nvmlDeviceGetComputeRunningProcesses=lambda card: [],
    )  # fmt: skip
    monkeypatch.setattr("user_fleet.resources.machine._installed_nvml", lambda: nvml)
    watch = MemoryWatch(dict)
    watch.look()
    assert watch.of_gpus == [70]
