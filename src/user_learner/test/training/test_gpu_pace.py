"""Training waits between two pieces of its work while an answer is due, forward and backward."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from user_core.runtime import gpu_turns
from user_core.runtime.gpu_turns import LEAST_SHARE, GpuTurns
from user_learner.training.gpu_pace import GpuPace


@pytest.fixture
def network() -> nn.Module:
    """Three blocks, and layers that are none."""
    return nn.ModuleDict(
        {
            "enter": nn.Linear(4, 4),
            "blocks": nn.ModuleList(nn.Linear(4, 4) for _ in range(3)),
            "activations": nn.ModuleList([nn.ReLU(), nn.ReLU()]),
        }
    )


def forward(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = network["enter"](x)
    for block in network["blocks"]:
        x = block(x)
    return x


def test_there_is_a_place_before_each_block_forward_and_backward(
    tmp_path: Path, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    pace = GpuPace(GpuTurns(tmp_path / "turns"), ahead=None)
    assert pace.between_blocks_of(network) == 3
    monkeypatch.setattr(GpuTurns, "wait", lambda self, most: calls.append(1) or 0.0)
    y = forward(network, torch.randn(2, 4))
    assert len(calls) == 3
    y.sum().backward()
    assert len(calls) == 6


def test_there_is_a_place_before_the_largest_part_of_a_block(tmp_path: Path) -> None:
    """Also where a network calls the parts of its blocks, and never the blocks."""

    def block() -> nn.Module:
        mlp = nn.Sequential(nn.Linear(4, 16), nn.ReLU())
        return nn.ModuleDict({"norm": nn.LayerNorm(4), "attention": nn.Linear(4, 4), "mlp": mlp})

    network = nn.ModuleList(block() for _ in range(3))
    pace = GpuPace(GpuTurns(tmp_path / "turns"), ahead=None)
    assert pace.between_blocks_of(network) == 6 + 3  # and the layer in each mlp
    calls: list[int] = []
    pace._turns.wait = lambda most: calls.append(1) or 0.0  # type: ignore[method-assign, func-returns-value]
    for one in network:
        one["mlp"](torch.randn(2, 4))
    assert len(calls) >= 3


def test_networks_that_change_outputs_in_place_bear_it(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
    pace = GpuPace(GpuTurns(tmp_path / "turns"), ahead=None)
    assert pace.between_blocks_of(network) == 2
    network(torch.randn(2, 4)).sum().backward()


def test_it_waits_until_the_answer_is_there(tmp_path: Path, network: nn.Module) -> None:
    answers = GpuTurns(tmp_path / "turns")
    pace = GpuPace(GpuTurns(tmp_path / "turns"), ahead=None)
    pace.between_blocks_of(network)
    answers.take(0.2)
    threading.Timer(0.05, answers.give_back).start()
    start_s = time.monotonic()
    forward(network, torch.randn(2, 4))
    assert time.monotonic() - start_s >= 0.04
    assert pace.waited_s >= 0.04


def test_on_a_cpu_there_is_nothing_to_leave_to_others() -> None:
    assert GpuPace.on("cpu") is None


def test_training_never_stands_still_though_an_answer_is_always_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four simulated arms with a large policy ask for more than the GPU can answer: not one update was made."""
    monkeypatch.setattr(gpu_turns, "PATIENCE_S", 0.05)
    ends = threading.Event()

    def answers() -> None:
        turns = GpuTurns(tmp_path / "turns")
        while not ends.is_set():
            turns.take(0.25)
            time.sleep(1e-3)

    thread = threading.Thread(target=answers)
    thread.start()
    try:
        pace = GpuPace(GpuTurns(tmp_path / "turns"), ahead=None)
        while not pace._turns.taken:
            time.sleep(1e-3)
        start_s, computed_s = time.monotonic(), 0.0
        for _ in range(30):
            pace()
            piece_s = time.monotonic()
            time.sleep(2e-3)
            computed_s += time.monotonic() - piece_s
        took_s = time.monotonic() - start_s
    finally:
        ends.set()
        thread.join()
    assert computed_s < 2 * LEAST_SHARE * took_s + 0.05  # and answers keep the rest
    assert pace.waited_s > 0
