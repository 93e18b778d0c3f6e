"""Updates in short CUDA graphs: where they are cut, when they cannot be recorded, and that the weights come out the
same."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from user_core.plugins import build
from user_core.policies import cuda_graphs
from user_core.policies.cuda_graphs import Recorder, form_of, mapped, seconds_of, tensors_of
from user_core.runtime.gpu_turns import GpuTurns
from user_core.specs import ArraySpec, RobotSpec
from user_learner.algorithms.common import cuda_graph, flat_parameters
from user_learner.algorithms.common.cuda_graph import GraphedUpdate
from user_learner.algorithms.imitation.bc import BC, BCConfig
from user_learner.algorithms.off_policy.sac import SAC, SACConfig
from user_learner.training.gpu_pace import GpuPace, PieceTimes
from user_testing.small_vlm import make_small_vlm, make_tokenizer, two_layers_of_pi0
from user_testing.worlds.batches import random_batch

SPEC = RobotSpec(
    "r",
    {"x": ArraySpec((3,), low=-1.0, high=1.0), "camera": ArraySpec((16, 16, 3), "uint8")},
    ArraySpec((2,), low=-1.0, high=1.0),
)
TRANSFORMER = {"rows": 4, "embedding": 32, "layers": 2, "heads": 2, "image_channels": [8, 8], "steps": 2}  # fmt: skip
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Places:
    """Counts; pieces take as long as it says."""

    def __init__(self, measured_s: float = 0.0) -> None:
        self.calls, self.anew, self._measured_s = 0, 0, measured_s

    def __call__(self) -> None:
        self.calls += 1

    def measured_s(self) -> float:
        return self._measured_s

    def measure_anew(self) -> None:
        self.anew += 1


class Tape:
    """Begins "graphs" that are lists of the operations that were launched meanwhile."""

    def __init__(self) -> None:
        self.open: int | None = None
        self.begun = 0

    def __call__(self) -> tuple[int, Any]:
        assert self.open is None, "one is recorded at a time"
        self.open = number = self.begun
        self.begun += 1

        def end() -> None:
            assert self.open == number
            self.open = None

        return number, end


def test_what_is_launched_is_cut_forward_backward_and_within_the_optimiser() -> None:
    network = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
    x = torch.randn(32, 64)

    def update() -> list[Tensor]:
        network.zero_grad()
        network(x).square().mean().backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    expected = update()
    counts = []
    for limit_s in (None, 1e9, 1e-5, 1e-9):
        tape = Tape()
        recorder = Recorder(tape, limit_s)
        with recorder.recording():
            found = update()
        assert tape.open is None and recorder.graphs == list(range(tape.begun))
        counts.append(len(recorder.graphs))
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one, other)
    assert counts[:2] == [1, 1]
    assert 2 < counts[2] < counts[3]
    assert counts[3] > 4 + 3 * 4  # places also on the way back


def test_a_graph_that_fails_is_ended_and_says_why() -> None:
    tape = Tape()

    def fails() -> None:
        with Recorder(tape, 1e-9).recording():
            _ = torch.ones(3) + 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert tape.open is None


def test_numbers_for_notes_only_are_not_read_back_while_it_is_recorded() -> None:
    found = []
    with Recorder(Tape(), notes_on="cpu").recording():
        loss = torch.ones(3).sum()
        found += [loss.item(), float(loss), torch.ones((), dtype=torch.int64).item()]
    assert np.isnan(found[:2]).all() and found[2] == 1  # a count may decide something
    assert float(loss) == 3


def test_tensors_for_notes_only_are_not_brought_to_the_host_while_it_is_recorded() -> None:
    with Recorder(Tape(), notes_on="meta").recording():
        losses = torch.ones(3, device="meta")
        noted = losses.mean(0).cpu().numpy().tolist(), losses.detach().cpu().tolist()
        with pytest.raises(NotImplementedError):
            torch.ones(3, dtype=torch.int64, device="meta").cpu()  # a count may decide something
    assert np.isnan(noted[0]) and np.isnan(noted[1]).all()


def given_by_the_host() -> Tensor:
    mask = torch.tensor([1.0, 0.0, 1.0], device="meta")
    factor = torch.full((3,), 2.0).to("meta")
    written = torch.zeros(3, device="meta")
    written.copy_(torch.ones(3))
    return mask * factor + written * torch.as_tensor([3.0], device="meta")


def recorded_with(constants: list[Tensor], update: Any) -> Any:
    with Recorder(Tape(), constants=constants).recording():
        return update()


def test_what_the_host_gives_is_noted_once_and_taken_from_there() -> None:
    """On a device that holds no numbers: whatever is brought there fails while it is recorded."""
    with cuda_graphs.rehearsed("meta") as constants:
        given_by_the_host()
    assert [tuple(one.shape) for one in constants] == [(3,), (3,), (3,), (1,)]
    brought = []

    class Look(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            places = {x.device.type for x in (*args, *(kwargs or {}).values()) if isinstance(x, Tensor)}  # fmt: skip
            brought.append(func) if {"cpu", "meta"} <= places else None
            return func(*args, **(kwargs or {}))

    with Look(), Recorder(Tape(), constants=constants).recording():
        assert given_by_the_host().shape == (3,)
    assert not brought
    with pytest.raises(RuntimeError, match="more than when"):
        recorded_with(constants, lambda: given_by_the_host() + given_by_the_host())


def test_numbers_that_were_noted_are_those_that_come_back() -> None:
    """Also where what came was written to."""

    def update() -> Tensor:
        came = torch.tensor([1.0, 2.0], device="cpu")
        return came.add_(1)

    with cuda_graphs.rehearsed("cpu") as constants:
        update()
    for _ in range(2):
        assert recorded_with(constants, update).tolist() == [2.0, 3.0]


def test_noise_of_the_host_is_not_recorded() -> None:
    """It would be the same in each replay; noise of the GPU is not."""

    def update() -> Tensor:
        return (
            torch.distributions.Beta(torch.tensor(1.5), torch.tensor(1.0)).sample((4,)).to("meta")
        )

    with cuda_graphs.rehearsed("meta") as constants:
        update()
    with pytest.raises(RuntimeError, match="noise is drawn on the host"):
        recorded_with(constants, update)
    recorded_with(constants, lambda: torch.randn(3, device="meta"))


def test_operations_take_as_long_as_arithmetic_or_memory_allows() -> None:
    found: dict[str, float] = {}

    class Look(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            made = func(*args, **(kwargs or {}))
            found[str(func.overloadpacket)] = seconds_of(func, args, kwargs or {}, made)
            return made

    with Look():
        half = torch.ones(1024, 1024, dtype=torch.bfloat16)
        half @ half
        half.view(-1)
        half.add_(1)
    launch_s = cuda_graphs._LAUNCH_S
    assert found["aten.view"] == 0
    assert found["aten.mm"] == pytest.approx(2 * 1024**3 / cuda_graphs._HALF_FLOPS + launch_s)
    assert found["aten.add_"] == pytest.approx(2 * 1024**2 / cuda_graphs._BYTES + launch_s)


def test_a_batch_is_copied_leaf_by_leaf_and_told_apart_by_its_form() -> None:
    given = ({"a": torch.ones(2), "b": None}, [torch.zeros(3)], 0.5)
    copied = mapped(given, torch.Tensor.clone)
    assert [t.shape for t in tensors_of(copied)] == [(2,), (3,)]
    assert form_of(copied) == form_of(given)
    assert form_of(given) != form_of((*given[:2], 0.25))
    assert form_of(given) != form_of(({"a": torch.ones(2).half(), "b": None}, *given[1:]))


def bc(**settings: Any) -> BC:
    policy = build("policies", "flow", {**TRANSFORMER, "normalization_calls": 2}, SPEC)
    return BC(BCConfig(**settings), SPEC, policy)


def batches(count: int, rows: int = 8) -> list[Any]:
    rng = np.random.default_rng(0)
    return [random_batch(SPEC, rows, rng, window=4) for _ in range(count)]


def test_a_large_network_is_stepped_piece_by_piece_with_the_same_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And training may wait between any two, of gradients, of Adam and of the average."""
    whole, pieces, places = bc(average=0.9), bc(average=0.9), Places()
    pieces.give_way(places)
    for batch in batches(3):
        monkeypatch.setattr(flat_parameters, "_PIECE", 1 << 25)
        whole.update(batch)
        monkeypatch.setattr(flat_parameters, "_PIECE", 1000)
        pieces.update(batch)
    size = whole.parameters.flat.numel()
    assert places.calls >= 3 * 4 * (size // 1000)
    torch.testing.assert_close(pieces.parameters.flat, whole.parameters.flat, rtol=1e-5, atol=1e-7)
    for name, array in whole.state()["optimizer"].items():
        np.testing.assert_allclose(pieces.state()["optimizer"][name], array, rtol=1e-4, atol=1e-9)
    assert pieces.state()["optimizer"]["step"] == 3
    assert whole._average is not None and pieces._average is not None
    torch.testing.assert_close(pieces._average.average[0], whole._average.average[0], rtol=1e-5, atol=1e-7)  # fmt: skip


def test_a_spoilt_batch_changes_nothing_in_pieces_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat_parameters, "_PIECE", 1000)
    algorithm = bc()
    algorithm.update(batches(1)[0])
    before, state = algorithm.parameters.flat.clone(), algorithm._optimizer.state()
    algorithm.parameters.grad.fill_(1.0)
    algorithm.parameters.grad[-1] = float("nan")
    algorithm._optimizer.step()
    assert torch.equal(algorithm.parameters.flat, before)
    for name, array in algorithm._optimizer.state().items():
        np.testing.assert_array_equal(array, state[name])


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"activation_checkpointing": True}, "activation_checkpointing"),
        ({}, "hooks on"),
    ],
)
def test_why_updates_are_not_recorded_is_known_beforehand(
    settings: dict[str, Any], why: str
) -> None:
    algorithm = bc(**settings)
    if not settings:
        algorithm.network.denoiser.blocks[1].register_forward_hook(lambda *_: None)
    assert why in algorithm._why_not_graphs()
    assert bc()._why_not_graphs() == ""


def test_on_a_cpu_nothing_is_recorded_and_nothing_said(caplog: pytest.LogCaptureFixture) -> None:
    algorithm = bc()
    with caplog.at_level(logging.INFO):
        algorithm.give_way(Places())
        for batch in batches(8):
            algorithm.update(batch)
    assert not algorithm._graphed.replays and not caplog.records


def test_batches_of_ever_other_shapes_are_not_recorded(caplog: pytest.LogCaptureFixture) -> None:
    graphed = GraphedUpdate(lambda given: {"sum": given[0].sum()}, torch.Generator())
    graphed.enabled = True
    for rows in range(2, 10):
        assert graphed((torch.ones(rows),))["sum"] == rows
    assert "other shapes" in graphed.why_not
    assert len(caplog.records) == 1


def test_an_update_that_cannot_be_recorded_goes_on_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a GPU, where recording raises what CUDA says."""

    def fails(self: GraphedUpdate, given: Any) -> bool:
        self.leave(cuda_graph._why_not(RuntimeError("operation not permitted when stream is capturing")))  # fmt: skip
        return False

    monkeypatch.setattr(GraphedUpdate, "_record", fails)
    graphed = GraphedUpdate(lambda given: {"sum": given[0].sum()}, torch.Generator())
    graphed.enabled = True
    for _ in range(10):
        assert graphed((torch.ones(3),))["sum"] == 3
    assert "looks at values of tensors" in graphed.why_not
    assert len(caplog.records) == 1


def test_pieces_that_take_longer_than_thought_are_recorded_anew_once() -> None:
    graphed = GraphedUpdate(lambda given: {}, torch.Generator())
    graphed.between = Places(measured_s=3 * cuda_graph.PIECE_S)
    for _ in range(3 * cuda_graph._LOOK_AFTER):
        graphed._graphs = [None]
        graphed._look_at_pieces()
        if not graphed._graphs:
            break
    assert not graphed.replays and graphed._slower == pytest.approx(3)
    graphed._replays = 0
    graphed._graphs = [None]
    for _ in range(3 * cuda_graph._LOOK_AFTER):
        graphed._look_at_pieces()
    assert graphed.replays


def test_the_update_after_which_it_is_recorded_anew_has_its_metrics_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a graph that adds one to what it was recorded with."""
    graphed = GraphedUpdate(lambda given: {"sum": given[0].sum()}, torch.Generator())
    graphed.enabled, graphed.between = True, Places(measured_s=3 * cuda_graph.PIECE_S)
    recorded = []

    class Graph:
        def replay(self) -> None:
            graphed._metrics["sum"].add_(1)  # type: ignore[union-attr]

    def record(self: GraphedUpdate, given: Any) -> bool:
        recorded.append(self._calls)
        self._inputs, self._graphs = [given[0].clone()], [Graph()]
        self._metrics, self._replays = {"sum": torch.zeros(())}, 0
        return True

    monkeypatch.setattr(GraphedUpdate, "_record", record)
    for _ in range(5 + 3 * cuda_graph._LOOK_AFTER):
        assert "sum" in graphed((torch.ones(3),))
    assert len(recorded) == 2


def test_numbers_that_are_read_back_and_are_no_notes_end_the_replaying(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As what the recorder gives for them would make all that follows."""

    def update(given: Any) -> dict[str, Tensor]:
        return {"loss": given[0].sum() * given[0].max().item()}

    def record(self: GraphedUpdate, given: Any) -> bool:
        recorder = Recorder(Tape(), notes_on="cpu")
        with recorder.recording():
            self._metrics = update(given)
        self._inputs, self._graphs = [given[0].clone()], [Graph()]
        return True

    class Graph:
        def replay(self) -> None:
            pass

    monkeypatch.setattr(GraphedUpdate, "_record", record)
    graphed = GraphedUpdate(update, torch.Generator(), notes_on="cpu")
    graphed.enabled = True
    found = [float(graphed((torch.ones(3),))["loss"]) for _ in range(8)]
    assert np.isnan(found).sum() == 1 and np.nansum(found) == 3 * 7
    assert "not finite" in graphed.why_not


def test_the_longest_pieces_count_but_for_a_few() -> None:
    times = PieceTimes()
    assert times.longest_s == 0
    looks = [times.add(9.0 if number in (3, 70) else 1e-3) for number in range(100)]
    assert sum(looks) == 1
    assert times.longest_s == 1e-3
    for _ in range(20):
        times.add(2e-3)
    assert times.longest_s == 2e-3


# --- on a GPU


def trained(algorithm: BC, count: int, rows: int = 8) -> Tensor:
    for batch in batches(count, rows):
        metrics = algorithm.update(batch)
        assert all(np.isfinite(value) for value in metrics.values())
    return algorithm.parameters.flat


@on_a_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("plugin", ["flow", "diffusion", "act"])
def test_weights_are_those_of_updates_that_are_launched(tmp_path, plugin, precision) -> None:  # type: ignore[no-untyped-def]
    torch.backends.cudnn.deterministic = True
    made = []
    for cuda_graphs_too in (False, True):
        params = {**TRANSFORMER, "normalization_calls": 2}
        if plugin == "act":
            params.pop("steps")
        config = BCConfig(device="cuda", precision=precision, cuda_graphs=cuda_graphs_too, average=0.99)  # fmt: skip
        algorithm = BC(config, SPEC, build("policies", plugin, params, SPEC))
        pace = GpuPace(GpuTurns(tmp_path / "turns"))
        pace.give_way(algorithm)
        made.append((trained(algorithm, 20), algorithm))
    (launched, first), (replayed, second) = made
    assert first._graphed.pieces == 0
    assert second._graphed.pieces >= 1, second._graphed.why_not
    assert torch.equal(launched, replayed), (launched - replayed).abs().max()
    assert torch.equal(first._average.average[0], second._average.average[0])  # type: ignore[union-attr]


ACT = {
    "chunk_size": 4, "n_action_steps": 4, "dim_model": 32, "n_heads": 2, "dim_feedforward": 64,
    "n_encoder_layers": 1, "n_vae_encoder_layers": 1, "latent_dim": 4, "pretrained_backbone_weights": None,
}  # fmt: skip


def lerobot_params(kind: str, folder: Path) -> dict[str, Any]:
    """A small one; pi0 is to be made of two layers."""
    params: dict[str, Any] = {"type": kind, "instruction": "reach the target", "device": "cuda"}
    if kind == "act":
        return params | {"config": ACT}
    if kind == "smolvla":
        return params | {"config": make_small_vlm(folder)}
    make_tokenizer(folder)
    small = {"chunk_size": 4, "n_action_steps": 4, "dtype": "bfloat16"}
    words = {"tokenizer_processor": {"tokenizer_name": str(folder)}}
    return params | {"config": small, "processors": words}


@on_a_gpu
@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize("kind", ["act", "smolvla", "pi0", "pi0 recomputed"])
def test_policies_of_lerobot_learn_the_same_in_graphs(tmp_path, kind, between) -> None:  # type: ignore[no-untyped-def]
    """With the same noise: of the device, and that which LeRobot draws on the host."""
    pytest.importorskip("lerobot")
    torch.backends.cudnn.deterministic = True
    camera = {"camera": ArraySpec((64, 64, 3), "uint8"), "x": ArraySpec((3,), low=-1.0, high=1.0)}
    spec = RobotSpec("r", camera, ArraySpec((2,), low=-1.0, high=1.0))
    name, recomputed = kind.split()[0], " " in kind
    with torch.device("cuda"), two_layers_of_pi0():
        policy = build("policies", "lerobot", lerobot_params(name, tmp_path), spec)
    made = []
    for cuda_graphs_too in (False, True):
        config = BCConfig(
            device="cuda", cuda_graphs=cuda_graphs_too, activation_checkpointing=recomputed,
            precision="bfloat16" if name == "pi0" else "float32",
        )  # fmt: skip
        algorithm = BC(config, spec, policy)
        if between:
            GpuPace(GpuTurns(tmp_path / "turns")).give_way(algorithm)
        rng = np.random.default_rng(0)
        rows = algorithm.network.rows
        batches_of_it = [random_batch(spec, 8, rng, window=rows) for _ in range(12)]
        made.append([algorithm.update(batch)["loss"] for batch in batches_of_it])
    assert algorithm._graphed.pieces >= 1, algorithm._graphed.why_not
    # Convolutions of ACT sum in no fixed order, of which Adam makes more; other noise makes percents.
    np.testing.assert_allclose(made[0], made[1], rtol=5e-3)


@on_a_gpu
@pytest.mark.parametrize("between", [None, Places()])
def test_noise_of_the_devices_own_generator_is_that_of_updates_that_are_launched(
    between: Places | None,
) -> None:
    def drawn(replays: bool) -> list[list[float]]:
        generator = torch.Generator("cuda").manual_seed(3)

        @contextmanager
        def noise() -> Iterator[None]:
            if torch.cuda.is_current_stream_capturing():
                yield
                return
            seed = int(torch.randint(2**31, (), generator=generator, device="cuda"))
            with torch.random.fork_rng(devices=[0]):
                torch.manual_seed(seed)
                yield

        def update(given: Any) -> dict[str, Tensor]:
            with noise():
                many = nn.functional.dropout(given[0], 0.5)
                more = torch.rand(5, device="cuda")
                return {"many": many.sum(), "more": (more * nn.functional.dropout(more)).sum()}

        graphed = GraphedUpdate(update, generator, enabled=replays, around=noise)
        graphed.between = between
        x = torch.ones(1 << 21, device="cuda")
        found = [[float(v) for v in graphed((x,)).values()] for _ in range(12)]
        assert graphed.replays == replays, graphed.why_not
        return found

    launched = drawn(False)
    assert len({tuple(row) for row in launched}) == 12
    assert drawn(True) == launched


@on_a_gpu
def test_training_goes_on_from_a_checkpoint_that_was_loaded(tmp_path) -> None:  # type: ignore[no-untyped-def]
    algorithm = bc(device="cuda")
    GpuPace(GpuTurns(tmp_path / "turns")).give_way(algorithm)
    trained(algorithm, 10)
    state = algorithm.state()
    after = trained(algorithm, 12).clone()
    algorithm.load_state(state)
    assert torch.equal(trained(algorithm, 12), after)
    assert algorithm._graphed.replays


@on_a_gpu
@pytest.mark.parametrize("between", [False, True])
def test_updates_of_small_networks_are_replayed_in_pieces_too(tmp_path, between) -> None:  # type: ignore[no-untyped-def]
    made = []
    for gives_way in (False, between):
        policy = build("policies", "tanh_gaussian", {"ignored_observations": ["camera"]}, SPEC)
        algorithm = SAC(SACConfig(device="cuda", cuda_graph=gives_way or not between), SPEC, policy)
        if gives_way:
            GpuPace(GpuTurns(tmp_path / "turns")).give_way(algorithm)
        rng = np.random.default_rng(0)
        for _ in range(12):
            algorithm.update(random_batch(SPEC, 64, rng))
        made.append(algorithm.networks.actor.flat.clone())
    assert torch.equal(*made)


@on_a_gpu
def test_what_looks_at_values_is_launched_and_says_why() -> None:
    graphed = GraphedUpdate(
        lambda given: {"sum": given[0] * given[0].sum().item()}, torch.Generator("cuda")
    )
    for _ in range(10):
        assert float(graphed((torch.ones((), device="cuda"),))["sum"]) == 1
    assert not graphed.replays and "looks at values" in graphed.why_not
    assert float(torch.ones(3, device="cuda").sum()) == 3  # the GPU goes on
    assert torch.rand(3, device="cuda").sum() > 0
