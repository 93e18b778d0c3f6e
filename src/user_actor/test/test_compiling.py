"""Policies that act by compiled calls: the same actions, and nothing is compiled while a robot waits."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from user_actor.inference.compiling import Compiler
from user_actor.loop.acting.policy import PolicyHolder, planned, planned_together
from user_core.fakes import PolicyMailbox
from user_core.interfaces import Query
from user_core.plugins import build
from user_core.policies.torch_policy import in_precision
from user_core.specs import ArraySpec, RobotSpec
from user_core.types import PolicyVersion, Task

SPEC = RobotSpec(
    "arm",
    {"x": ArraySpec((5,), low=-1.0, high=1.0), "image": ArraySpec((16, 16, 3), "uint8")},
    ArraySpec((2,), low=-1.0, high=1.0),
)
FLOW = {"rows": 4, "steps": 2, "backbone": "transformer", "embedding": 8, "layers": 1, "heads": 2,
        "ignored_observations": ["image"]}  # fmt: skip
ACT = {"rows": 4, "embedding": 8, "layers": 1, "heads": 2, "ignored_observations": ["image"]}


def no_context(policy):
    return nullcontext()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """What torch's compiler makes of a call, without its C++: seconds less, and the same forms."""
    torch._dynamo.reset()
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **more: compile(f, backend="aot_eager", **more))


def holder_of(plugin, params, most=2, pass_in=no_context, coarse=False):
    compiler = Compiler(most, SPEC, Task("t"), pass_in, coarse)
    mailbox = PolicyMailbox()
    holder = PolicyHolder(
        lambda: build("policies", plugin, params, SPEC), SPEC, mailbox,
        pass_in=compiler.pass_in, prepare=compiler.warm,
    )  # fmt: skip
    return holder, compiler, mailbox


def graphs():
    return counters["stats"]["unique_graphs"]


def asked(count, plan=None, policy=None):
    rng = np.random.default_rng(1)
    return [Query(SPEC.sample_observation(rng), True, Task("t"), plan, 1) for _ in range(count)]


def other_weights(policy):
    return {n: a + np.float32(0.01) * (a.dtype.kind == "f") for n, a in policy.arrays().items()}


@pytest.mark.parametrize(("plugin", "params"), [("flow", FLOW), ("act", ACT)])
def test_actions_are_the_same_and_versions_bring_no_compilation_to_who_waits(plugin, params):
    holder, compiler, mailbox = holder_of(plugin, params)
    assert not compiler.why_not
    for number in (1, 2, 3):
        policy = holder.acting
        mailbox.publish(PolicyVersion(number, other_weights(policy), "", created_ns=1))
        assert holder.load_newest(), holder.refusal
        policy, before = holder.current().policy, graphs()
        assert before > 0
        for count in (1, 2):
            with compiler.pass_in(policy):
                made = planned_together(policy, asked(count))
            expected = planned_together(policy, asked(count))
            np.testing.assert_allclose(made, expected, atol=1e-5)
        if plugin == "flow":
            with compiler.pass_in(policy):
                planned_together(policy, asked(2, np.zeros((4, 2), np.float32)))
        assert graphs() == before
    assert compiler.unwarmed == 0
    assert not vars(policy._network).keys() & {"generate", "forward"}, "as it was made"


def test_sizes_are_tried_again_only_for_weights_that_lie_elsewhere(monkeypatch):
    tried = []
    of_all = Compiler._try_sizes
    monkeypatch.setattr(Compiler, "_try_sizes", lambda self, p: tried.append(p) or of_all(self, p))
    holder, compiler, _ = holder_of("act", ACT)
    policy = holder.acting
    ((owner, _),) = policy.acting_calls()
    weight = next(owner.parameters())
    with torch.no_grad():
        weight += 0.1
    compiler.warm(policy)
    assert tried == [policy]
    weight.data = weight.data.clone()
    compiler.warm(policy)
    compiler.warm(policy)
    assert tried == [policy, policy]
    holder.load(PolicyVersion(1, {}, ""), lambda spare: spare.load(other_weights(policy)))
    assert tried[2:] == [holder.current().policy] and not compiler.why_not


def test_batches_are_filled_up_to_what_is_warm_and_other_forms_are_computed_as_they_are():
    sizes = Compiler(6, SPEC, Task("t"), no_context)
    assert [sizes.size(count) for count in (1, 2, 3, 5, 6)] == [1, 2, 4, 6, 6]
    holder, compiler, _ = holder_of("act", ACT, most=1)
    before, policy = graphs(), holder.acting
    with compiler.pass_in(policy):
        assert len(planned_together(policy, asked(3))) == 3
    assert compiler.unwarmed == 1
    assert graphs() == before


def test_in_half_precision_rounding_is_not_an_error():
    half = lambda policy: in_precision("bfloat16", "cpu")  # noqa: E731
    _, compiler, _ = holder_of("act", ACT, 1, half, True)
    assert not compiler.why_not


def test_what_cannot_be_compiled_acts_as_it_is_and_says_why(monkeypatch):
    holder, compiler, _ = holder_of("tanh_gaussian", {"hidden": [8]})
    assert "names nothing" in compiler.why_not
    with compiler.pass_in(holder.acting):
        planned(holder.acting, asked(1)[0].observation, None, True)

    def fails(function, **more):
        def call(*arguments, **keywords):
            raise RuntimeError("no C++ compiler")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    holder, compiler, _ = holder_of("act", ACT)
    assert "no C++ compiler" in compiler.why_not
    assert compiler.size(3) == 3

    def wrong(function, **more):
        return lambda *arguments, **keywords: function(*arguments, **keywords) + 1

    monkeypatch.setattr(torch, "compile", wrong)
    holder, compiler, _ = holder_of("act", ACT)
    assert "differ by" in compiler.why_not
    with compiler.pass_in(holder.acting):
        made = planned(holder.acting, asked(1)[0].observation, None, True)
    expected = planned(holder.acting, asked(1)[0].observation, None, True)
    np.testing.assert_array_equal(made, expected)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_by_torchs_own_compiler(monkeypatch):
    monkeypatch.undo()
    holder, compiler, _ = holder_of("flow", FLOW, 1)
    assert not compiler.why_not
    policy = holder.acting
    with compiler.pass_in(policy):
        made = planned_together(policy, asked(1))
    np.testing.assert_allclose(made, planned_together(policy, asked(1)), atol=1e-4)
