"""A policy acts alone only once it has shown, with a person present, that it may."""

import pytest

from user_actor.loop.config import ActorLoopConfig, ProofConfig
from user_actor.loop.start import Proof, StartSignal
from user_core.config import from_mapping
from user_core.errors import ConfigError
from user_core.interfaces import RewardOutcome
from user_core.reasons import NO_OBSERVATIONS, PERSON_TOOK_OVER, SAFETY_STOP, WAITS_FOR_GO
from user_core.types import EpisodeKey, EpisodeResult, EpisodeSource, Outcome
from user_testing.worlds.actor_loop import MS, build

SECOND = 1000 * MS
EVALUATION, ONLINE = EpisodeSource.EVALUATION, EpisodeSource.ONLINE


def ended(outcome=Outcome.SUCCESS, code=""):
    return EpisodeResult(EpisodeKey("a", 1, 0), EVALUATION, outcome, 3, 0.0, reason_code=code)


def test_a_policy_that_succeeds_goes_on_alone_and_every_seed_of_the_round_is_another():
    setup = build(
        {"proof": {"episodes": 3, "success": 0.6}, "evaluation": {"seed": 100}, "max_episodes": 6,
         "max_episode_steps": 9}
    )  # fmt: skip
    setup.publish(1)
    setup.reward.ends = lambda step: RewardOutcome(1.0, True, True) if step % 3 == 0 else None
    setup.world.at(2 * SECOND, setup.loop.start.go)
    results = setup.run()
    assert [result.source for result in results] == [EVALUATION] * 3 + [ONLINE] * 3
    assert setup.arm.seeds[:3] == [100, 101, 102]
    assert min(setup.arm.sent_ns) >= 2 * SECOND, "nothing moves before go"
    assert setup.loop.proof.proven


def test_one_that_fails_waits_for_a_person_again_says_why_and_collects_beside_him():
    setup = build(
        {"proof": {"episodes": 2}, "max_episodes": 6, "max_episode_steps": 3}
    )  # it never succeeds: all end by time
    setup.publish(7)
    seen = []
    setup.world.at(1 * SECOND, setup.loop.start.go)
    setup.world.at(20 * SECOND, lambda: seen.append(setup.loop.status().reason))
    setup.world.at(21 * SECOND, setup.loop.start.go)
    setup.world.at(51 * SECOND, setup.loop.stop)
    results = setup.run()
    assert [result.source for result in results] == [EVALUATION] * 2 + [ONLINE] * 2 + [
        EVALUATION
    ] * 2
    assert seen[0].code == WAITS_FOR_GO
    assert "policy version 7 solved 0 of 2 evaluations, 1.6 are needed to act alone" in seen[0].text


def test_what_is_not_its_fault_is_tried_again_and_a_takeover_or_a_stop_is():
    start = StartSignal(True, 60.0)
    proof = Proof(ProofConfig(episodes=2, success=1.0), start)
    proof.evaluated(ended(Outcome.ABORTED, NO_OBSERVATIONS))
    assert proof.done == 0
    proof.evaluated(ended())
    proof.evaluated(ended(Outcome.ABORTED, PERSON_TOOK_OVER))
    assert not proof.proven and not proof.evaluates
    proof.collected()
    proof.collected()
    assert proof.evaluates
    proof.evaluated(ended())
    proof.evaluated(ended(Outcome.ABORTED, SAFETY_STOP))
    assert not proof.proven
    for _ in range(2):
        proof.collected()
    proof.evaluated(ended())
    proof.evaluated(ended())
    assert proof.proven and not proof.evaluates


def test_without_it_nothing_is_different_and_only_who_collects_can_be_proven():
    assert Proof(ProofConfig(), StartSignal(False, 1.0)).proven
    with pytest.raises(ConfigError, match=r"proof\.episodes"):
        from_mapping(ActorLoopConfig, {"mode": "evaluation", "proof": {"episodes": 3}})
