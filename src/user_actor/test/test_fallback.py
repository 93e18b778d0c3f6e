"""A policy on the robot acts while the one elsewhere does not answer. Virtual time."""

from itertools import groupby

import numpy as np
import pytest

from user_actor.loop.acting.fallback import Fallback, policy_of_file
from user_actor.loop.acting.policy import FixedPolicy, PolicyHolder
from user_actor.loop.config import FallbackConfig, RemoteConfig
from user_core.codecs.weights import encode_version
from user_core.config import from_mapping
from user_core.errors import CodecError, ConfigError, PolicyError
from user_core.fakes import FakeRobot, PolicyMailbox
from user_core.plugins import PluginChoice
from user_core.policies import policy_config_hash
from user_core.reasons import LOCAL_POLICY
from user_core.types import ActedBy, EpisodeSource, Outcome, PolicyVersion, Task
from user_testing.worlds.actor_loop import MS, Arm, Elsewhere, Ramp, build, drives

PERIOD = 20 * MS
THERE, HERE, PERSON = ActedBy.POLICY, ActedBy.FALLBACK, ActedBy.HUMAN
WHEN = FallbackConfig(weights="versions", after_s=0.1, back_after_s=0.3)


def world_with(round_trip_ms=7, rows=1, when=WHEN, mailbox=None, **config):
    """A loop whose policy is elsewhere, and one here: of version 3, or of what comes into a mailbox."""
    made = {}

    def there(world, spec, holder):
        made["there"] = Elsewhere(world, spec, holder, round_trip_ms * MS)
        return made["there"]

    def here(world):
        if mailbox is None:
            policies = FixedPolicy(Ramp(world, rows, 0), 3)
        else:
            policies = PolicyHolder(lambda: Ramp(world, rows, 0), Arm(world).spec, mailbox)
        made["here"] = Fallback(when, policies, world)
        return made["here"]

    config = {"max_episode_steps": 100, "retry_s": 0.0, **config}
    setup = build(config, rows, inference=there, fallback=here)
    setup.world.after(30_000 * MS, lambda: setup.loop.stop("enough"))
    return setup, made["there"], made["here"]


def cuts(setup, elsewhere, step, cut_ms):
    """The link is cut at a step, for so long."""

    def cut():
        elsewhere.cut = True
        setup.world.after(cut_ms * MS, lambda: setattr(elsewhere, "cut", False))

    setup.at_step(step, cut)


def who(steps):
    return [(actor, len(list(run))) for actor, run in groupby(step.acted_by for step in steps)]


@pytest.mark.parametrize(("round_trip_ms", "rows"), [(7, 1), (70, 12)])
def test_it_takes_over_within_the_episode_and_gives_back_by_itself(round_trip_ms, rows):
    setup, elsewhere, fallback = world_with(round_trip_ms, rows)
    setup.publish(5)
    cuts(setup, elsewhere, 20, 600)
    said = []
    setup.at_step(40, lambda: said.extend(setup.loop.status().warnings))
    [result] = setup.run()
    assert result.outcome is not Outcome.ABORTED
    steps = setup.steps()
    assert steps[0].policy_version == 5
    assert result.first_version == 0, "its success is not that of one policy"
    (there, before), (here, between), (again, after) = who(steps)
    assert (there, here, again) == (THERE, HERE, THERE)
    assert before >= 20 and between >= 30 and after >= 10 and before + between + after == 100
    assert {step.policy_version for step in steps if step.acted_by is HERE} == {3}
    numbers = [[s.plan for s in steps if s.acted_by is actor] for actor in (THERE, HERE)]
    assert not set(numbers[0]) & set(numbers[1]), "each plan of the episode has its number"
    assert (np.diff([step.plan for step in steps]) >= 0).all()
    gaps = np.diff([step.stamp_ns for step in steps])
    assert (gaps > PERIOD).sum() <= 1  # the robot held for as long as it takes to be sure
    assert gaps.max() < 200 * MS
    assert any(warning.code == LOCAL_POLICY for warning in said)
    assert fallback.times == 1 and not fallback.reason


def test_a_host_that_answers_now_and_then_does_not_make_them_take_turns():
    setup, elsewhere, fallback = world_with(7)
    elsewhere.cut = True
    for ms in range(500, 1900, 200):  # heard for 40 ms of every 200
        setup.world.after(ms * MS, lambda: setattr(elsewhere, "cut", False))
        setup.world.after((ms + 40) * MS, lambda: setattr(elsewhere, "cut", True))
    setup.run()
    assert fallback.times == 1
    assert len(who(setup.steps())) <= 2


def test_single_actions_over_a_slow_link_come_back_too():
    """Each of its answers is over when it comes, while the robot is moved: it stands still for one."""
    setup, elsewhere, fallback = world_with(90, 1, max_episode_steps=150)
    cuts(setup, elsewhere, 10, 600)
    setup.run()
    assert [actor for actor, _ in who(setup.steps())] == [THERE, HERE, THERE]
    assert fallback.times == 1


def test_episodes_begin_without_the_other_host_and_evaluations_do_not():
    setup, elsewhere, _ = world_with(max_episodes=2, max_episode_steps=10)
    elsewhere.cut = True
    setup.run()
    assert [who(setup.steps(n)) for n in (0, 1)] == [[(HERE, 10)]] * 2
    evaluates, elsewhere, fallback = world_with(mode="evaluation")
    elsewhere.cut = True
    evaluates.run()
    assert not evaluates.sink.results and not fallback.acts
    mixed, elsewhere, fallback = world_with(
        max_episodes=3, max_episode_steps=30, evaluation={"every": 1, "episodes": 1}
    )
    mixed.publish(1)
    elsewhere.version = 1
    cuts(mixed, elsewhere, 35, 20_000)
    first, second, third = mixed.run()
    assert (first.source, second.source) == (EpisodeSource.ONLINE, EpisodeSource.EVALUATION)
    assert second.outcome is Outcome.ABORTED, "it is about the policy elsewhere"
    assert third.source is EpisodeSource.ONLINE
    assert who(mixed.steps(2)) == [(HERE, 30)]


def test_a_version_that_is_not_whole_never_acts_and_without_one_the_robot_holds():
    mailbox = PolicyMailbox()
    setup, elsewhere, fallback = world_with(7, 1, mailbox=mailbox, max_episode_steps=60)

    def comes(number, weight):
        mailbox.publish(PolicyVersion(number, {"weight": np.array([weight])}, "", created_ns=1))
        fallback.policies.load_newest()

    elsewhere.cut = True
    setup.world.after(1000 * MS, lambda: comes(1, np.nan))
    setup.world.after(2000 * MS, lambda: comes(2, 0.1))
    setup.world.after(2400 * MS, lambda: comes(3, np.nan))
    begin_ns = setup.world.wall_ns()
    setup.run()
    steps = setup.steps()
    assert steps[0].stamp_ns - begin_ns >= 2000 * MS
    assert {(step.acted_by, step.policy_version) for step in steps} == {(HERE, 2)}
    assert any("version 3" in warning.text for warning in setup.loop.status().warnings)


def test_a_person_takes_over_from_it():
    setup, elsewhere, _ = world_with(max_episode_steps=60)
    elsewhere.cut = True
    nobody = setup.person.script
    setup.person.script = lambda step: drives(0.5) if 10 <= step < 20 else nobody(step)
    setup.run()
    assert [actor for actor, _ in who(setup.steps())] == [HERE, PERSON, HERE]


def test_a_policy_file_is_tried_before_anything_moves(tmp_path):
    spec = FakeRobot(FakeRobot.Config()).spec
    choice = PluginChoice(plugin="tanh_gaussian", params={"hidden": [8], "seed": 1})
    policy = choice.build("policies", spec)
    config_hash = policy_config_hash(choice.plugin, choice.params, spec)

    def file(name, arrays, made_for=config_hash):
        path = tmp_path / name
        path.write_bytes(encode_version(PolicyVersion(7, arrays, made_for, created_ns=1)))
        return str(path)

    found = policy_of_file(file("good", policy.arrays()), choice, spec, Task())
    assert found.current().number == 7
    spoilt = {name: np.full_like(array, np.nan) for name, array in policy.arrays().items()}
    for bad, error in (
        (file("other", policy.arrays(), "another"), PolicyError),
        (file("nan", spoilt), PolicyError),
        (str(tmp_path / "none"), ConfigError),
    ):
        with pytest.raises(error):
            policy_of_file(bad, choice, spec, Task())
    half = tmp_path / "half"
    half.write_bytes((tmp_path / "good").read_bytes()[:-9])
    with pytest.raises(CodecError):
        policy_of_file(str(half), choice, spec, Task())


def test_versions_are_those_of_the_actors_own_policy():
    with pytest.raises(ConfigError, match="policy file"):
        from_mapping(RemoteConfig, {"fallback": {"weights": "versions", "plugin": "flow"}})
