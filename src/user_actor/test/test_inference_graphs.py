"""Policies that act by CUDA graphs: the same actions, of each version, and nothing is recorded while a robot waits."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from user_actor.inference.compiling import PreparedCalls, addresses_of
from user_actor.inference.graphs import CallGraphs, _keep_weights_in
from user_actor.loop.acting.policy import PolicyHolder, planned, planned_together
from user_core.fakes import PolicyMailbox
from user_core.interfaces import Query
from user_core.plugins import build
from user_core.policies.torch_policy import in_precision
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import PolicyVersion, Task
from user_testing.small_vlm import make_small_vlm, make_tokenizer, two_layers_of_pi0

SPEC = RobotSpec(
    "arm",
    {"x": ArraySpec((5,), low=-1.0, high=1.0), "image": ArraySpec((16, 16, 3), "uint8")},
    ArraySpec((2,), low=-1.0, high=1.0),
)
FLOW = {"rows": 4, "steps": 2, "backbone": "transformer", "embedding": 16, "layers": 2, "heads": 2,
        "image_channels": [8, 8]}  # fmt: skip
ACT = {"rows": 4, "embedding": 16, "layers": 1, "heads": 2, "image_channels": [8, 8]}
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def no_context(policy):
    return nullcontext()


def half(policy):
    return in_precision("bfloat16", "cuda")


def asked(count, plan=None, frozen=1, deterministic=True):
    rng = np.random.default_rng(1)
    return [
        Query(SPEC.sample_observation(rng), deterministic, Task("t"), plan, frozen)
        for _ in range(count)
    ]


class Replays(CallGraphs):
    """As on a GPU, but what is replayed is called."""

    def _is_warm(self):
        return True

    def _call(self, owner, name, own, *arguments, **keywords):
        self._warming.used = True
        return own(*arguments, **keywords)

    def warm(self, policy):
        PreparedCalls.warm(self, policy)

    pass_in = PreparedCalls.pass_in


def test_it_is_said_that_policies_act_by_graphs_and_that_answers_do_without(caplog):
    caplog.set_level("INFO", "user_actor")
    graphs = Replays(4, SPEC, Task("t"), no_context)
    policy = build("policies", "act", ACT, SPEC)
    graphs.warm(policy)
    assert not graphs.why_not and "0 CUDA graphs of what ActPolicy does" in caplog.text
    with graphs.pass_in(policy):
        planned_together(policy, asked(2))
    assert graphs.passes_without == 0
    for _ in range(2):
        with graphs.pass_in(policy):
            pass  # an answer by something else
    assert graphs.passes_without == 2
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert told == ["no CUDA graphs for an answer that did without generate"]


def other_weights(policy, share):
    rng = np.random.default_rng(0)
    return {
        n: a + np.float32(share) * rng.standard_normal(a.shape).astype(a.dtype)
        for n, a in policy.arrays().items()
    }


def test_a_policy_on_a_cpu_acts_as_it_is_and_says_why(caplog):
    caplog.set_level("INFO", "user_actor")
    graphs = CallGraphs(4, SPEC, Task("t"), no_context)
    policy = build("policies", "flow", FLOW, SPEC)
    graphs.warm(policy)
    assert graphs.why_not == "no CUDA graphs: FlowPolicy does not act on a GPU"
    assert graphs.why_not in caplog.text
    assert graphs.size(3) == 3
    with graphs.pass_in(policy):
        made = planned(policy, asked(1)[0].observation, None, True)
    np.testing.assert_array_equal(made, planned(policy, asked(1)[0].observation, None, True))
    assert graphs.count == graphs.unwarmed == 0


@pytest.mark.parametrize(
    ("plugin", "params", "call"),
    [("flow", FLOW, "sample"), ("diffusion", FLOW, "sample"), ("act", ACT, "generate"),
     ("advantage_flow", FLOW, "sample")],
)  # fmt: skip
def test_all_of_an_answer_is_one_call_of_tensors(plugin, params, call):
    """So that a graph of it leaves nothing to be launched: what lies around it makes tensors, and actions of them."""
    policy = build("policies", plugin, params, SPEC)
    ((owner, name),) = policy.graphed_calls()
    assert name == call
    calls = []
    own = getattr(owner, name)
    setattr(owner, name, lambda *given, **more: calls.append(given) or own(*given, **more))
    planned_together(policy, asked(2))
    assert len(calls) == 1


def test_weights_kept_in_bfloat16_act_as_those_that_autocast_rounds():
    policy = build("policies", "act", ACT, SPEC)
    policy.load(other_weights(policy, 0.1))
    query = asked(1)[0].observation
    with torch.autocast("cpu", torch.bfloat16):
        expected = planned(policy, query, None, True)
        ((owner, _),) = policy.graphed_calls()
        before = addresses_of(owner)
        _keep_weights_in(torch.bfloat16, owner)
        found = planned(policy, query, None, True)
    np.testing.assert_array_equal(found, expected)
    kinds = {type(m).__name__: {p.dtype for p in m.parameters(recurse=False)} for m in owner.modules()}  # fmt: skip
    assert kinds["Linear"] == kinds["Conv2d"] == {torch.bfloat16}
    assert kinds["LayerNorm"] == {torch.float32}
    assert addresses_of(owner) != before


# --- on a GPU


def holder_of(plugin, params, most=4, pass_in=no_context, coarse=False):
    graphs = CallGraphs(most, SPEC, Task("t"), pass_in, coarse)
    mailbox = PolicyMailbox()
    holder = PolicyHolder(
        lambda: build("policies", plugin, {**params, "device": "cuda"}, SPEC), SPEC, mailbox,
        pass_in=graphs.pass_in, prepare=graphs.warm,
    )  # fmt: skip
    return holder, graphs, mailbox


@on_a_gpu
@pytest.mark.parametrize("pass_in", [no_context, half])
@pytest.mark.parametrize(
    ("plugin", "params"),
    [("flow", FLOW), ("diffusion", FLOW), ("act", ACT), ("advantage_flow", FLOW), ("flow", {**FLOW, "prefix_rows": 2})],
)  # fmt: skip
def test_actions_of_each_version_are_those_without_graphs(plugin, params, pass_in):
    holder, graphs, mailbox = holder_of(plugin, params, pass_in=pass_in, coarse=pass_in is half)
    assert not graphs.why_not, graphs.why_not
    counts = []
    for number in range(1, 6):
        arrays = other_weights(holder.acting, 0.02 * number)
        mailbox.publish(PolicyVersion(number, arrays, "", created_ns=1))
        assert holder.load_newest(), holder.refusal
        policy = holder.current().policy
        plan = np.zeros((4, 2), np.float32)
        batches = [asked(1), asked(2), asked(4)]
        if plugin != "act":
            batches.append(asked(4, plan))
        for batch in batches:
            with graphs.pass_in(policy):
                made = planned_together(policy, batch)
            with pass_in(policy):
                expected = planned_together(policy, batch)
            np.testing.assert_allclose(made, expected, atol=1e-5 if pass_in is no_context else 2e-2)
        counts.append(graphs.count)
        np.testing.assert_array_equal(policy.arrays()["action_scale"], arrays["action_scale"])
    assert graphs.unwarmed == 0
    assert counts[0] > 0 and len(set(counts[1:])) == 1, "the second set's, and then no more"


@on_a_gpu
def test_what_comes_in_another_form_is_computed_as_it_is():
    holder, graphs, _ = holder_of("act", ACT, most=2)
    policy, before = holder.acting, graphs.count
    with graphs.pass_in(policy):
        made = planned_together(policy, asked(3))
    np.testing.assert_allclose(made, planned_together(policy, asked(3)), atol=1e-5)
    assert graphs.unwarmed == 1 and graphs.count == before


@on_a_gpu
def test_graphs_of_weights_that_moved_are_recorded_anew():
    holder, graphs, _ = holder_of("act", ACT)
    policy = holder.acting
    ((owner, _),) = policy.graphed_calls()
    kept = next(owner.parameters())
    kept.data = kept.data.clone() + 1
    graphs.warm(policy)
    assert not graphs.why_not
    with graphs.pass_in(policy):
        made = planned_together(policy, asked(1))
    np.testing.assert_allclose(made, planned_together(policy, asked(1)), atol=1e-5)


@on_a_gpu
def test_what_cannot_be_recorded_acts_as_it_is_and_says_why(monkeypatch):
    from user_core.policies.generative.act import ActNetwork

    own = ActNetwork.generate

    def looks(self, inputs):
        made = own(self, inputs)
        return made * (1.0 if float(made.sum()) < 1e9 else 0.0)

    monkeypatch.setattr(ActNetwork, "generate", looks)
    holder, graphs, _ = holder_of("act", ACT)
    assert "no CUDA graphs" in graphs.why_not and "captur" in graphs.why_not
    with graphs.pass_in(holder.acting):
        assert np.isfinite(planned_together(holder.acting, asked(2))).all()


@on_a_gpu
@pytest.mark.parametrize("kind", ["act", "smolvla", "pi0"])
def test_policies_of_lerobot_answer_the_same_by_graphs(kind, tmp_path):
    """The chunks of several seeds, of each version, and what goes on from plans wherever robots are in them."""
    pytest.importorskip("lerobot")
    spec = RobotSpec(
        "arm",
        {"x": ArraySpec((5,), low=-1.0, high=1.0), "image": ArraySpec((64, 64, 3), "uint8")},
        ArraySpec((2,), low=-1.0, high=1.0),
    )
    task = Task("t", "reach the target")
    params = {"type": kind, "device": "cuda", "config": lerobot_config(kind, tmp_path)}
    if kind == "pi0":
        params["processors"] = {"tokenizer_processor": {"tokenizer_name": str(tmp_path)}}
    graphs = CallGraphs(2, spec, task, half, True)
    with torch.device("cuda"), two_layers_of_pi0():
        policy = build("policies", "lerobot", params, spec)
    for number in range(3):
        if number:
            with policy.in_place() as tensors:
                for tensor in tensors.values():
                    if tensor.is_floating_point():
                        tensor.mul_(1.02)
        graphs.warm(policy)
        assert not graphs.why_not, graphs.why_not
        rng = np.random.default_rng(number)
        for count in (1, 2):
            seen = [spec.sample_observation(rng) for _ in range(count)]
            batch = [Query(one, True, task) for one in seen]
            with graphs.pass_in(policy):
                made = planned_together(policy, batch)
            with half(policy):
                expected = planned_together(policy, batch)
            np.testing.assert_allclose(made, expected, atol=2e-2)
            if kind == "act":
                continue
            batch = [Query(one, True, task, made[0][i:], 1 + i) for i, one in enumerate(seen)]
            with graphs.pass_in(policy):
                made = planned_together(policy, batch)
            with half(policy):
                expected = planned_together(policy, batch)
            np.testing.assert_allclose(made, expected, atol=2e-2)
    assert graphs.unwarmed == graphs.passes_without == 0 and graphs.count


def lerobot_config(kind, folder):
    if kind == "act":
        return {
            "chunk_size": 4, "n_action_steps": 4, "dim_model": 32, "n_heads": 2, "dim_feedforward": 64,
            "n_encoder_layers": 1, "n_vae_encoder_layers": 1, "pretrained_backbone_weights": None,
        }  # fmt: skip
    if kind == "smolvla":
        return make_small_vlm(folder)
    make_tokenizer(folder)
    return {"chunk_size": 4, "n_action_steps": 4, "dtype": "bfloat16"}
