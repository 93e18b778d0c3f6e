import io
import json
import math
from types import SimpleNamespace

import pytest
from rich.console import Console

from user_bringup.cli.up import main as up_main
from user_bringup.cli.up import one_line, why_it_never_ran, why_without_success
from user_bringup.console.snapshot import snapshot
from user_bringup.monitor import History, SystemState, render
from user_bringup.monitor.history import read_history
from user_bringup.monitor.shares import Corrected, Share
from user_bringup.monitor.state import DEMONSTRATION, EVALUATION, ONLINE
from user_bringup.monitor.table import bar, duration, number, percent, size
from user_bringup.report import RunSeries, write_report
from user_core.config import shared_names


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def actor(**changes):
    values = {
        "actor": "actor0", "robot": "panda", "state": 2, "steps": 1234, "episodes": 20,
        "success_rate": 0.75, "last_return": 0.5, "policy_version": 7, "policy_age_s": 3.2,
        "rate_hz": 9.98, "lateness_p99_ms": 1.25, "outbox_bytes": 2_500_000, "outbox_fill": 0.01,
        "warning_codes": [],
        "code": "", "detail": "",
        "warnings": [],
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def learner(**changes):
    values = {
        "algorithm": "rlpd", "state": 1, "update": 5000, "environment_steps": 1000,
        "updates_per_s": 40.0, "utd_ratio": 4.9, "utd_target": 5.0, "policy_version": 8,
        "data_wait_share": 0.02, "metric_names": ["critic_loss"], "metric_values": [0.1],
        "warning_codes": ["checkpoint_write"],
        "warnings": ["checkpoint is slow"],
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def replay(**changes):
    values = {
        "steps": 2000, "disk_bytes": 3e9, "disk_free_bytes": 8e10, "warning_codes": [], "warnings": [],
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def gate(**changes):
    return SimpleNamespace(**{"state": 1, "detail": "", "lease_holder": "actor0", **changes})


def episode(outcome=1, source=ONLINE, robot="panda", start_ns=0, first_version=1, last_version=2):
    return SimpleNamespace(
        robot=robot, task="reach", source=source, outcome=outcome, length=30, episode_return=1.0,
        interventions=2, takeovers=1, first_version=first_version, last_version=last_version, start_ns=start_ns, end_ns=start_ns + 1,
        reason_code="", reason="solved",
    )  # fmt: skip


def full_state(clock=None):
    state = SystemState(clock or Clock())
    state.take("ActorStatus", "/robot0/actor_status", actor())
    state.take("LearnerStatus", "/learner_status", learner())
    state.take("ReplayStatus", "/replay_status", replay())
    state.take("SafetyStatus", "/robot0/safety_status", gate())
    return state


def text_of(state, width=160):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render(state, "run x"))
    return console.export_text()


def test_the_table_shows_what_a_person_wants_to_know():
    text = text_of(full_state())
    for word in ("run x", "panda", "actor0", "running", "75%", "v7", "3.2 s", "10.0/s", "1.2 ms",
                 "2.5 MB", "active", "rlpd", "training", "5000", "4.90 of 5.00", "3.0 GB",
                 "checkpoint is slow"):  # fmt: skip
        assert word in text, word


def test_on_a_narrow_screen_nothing_is_cut_short():
    text = text_of(full_state(), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "\u2026" not in text
    for word in ("episodes", "late p99", "1.2 ms", "safety", "4.90 of 5.00", "data wait", "3.0 GB"):
        assert word in text, word
    assert text.count("actor0") == 2  # whose the second half is


def test_an_empty_system_can_be_shown():
    assert "robot" in text_of(SystemState())


def test_who_falls_silent_is_named():
    clock = Clock()
    state = full_state(clock)
    assert state.silent() == []
    clock.now_s += 6
    state.take("LearnerStatus", "/learner_status", learner(warnings=[]))
    assert state.silent() == ["actor0", "/replay_status"]
    assert "actor0 is silent" in state.warnings()
    assert "silent" in text_of(state)


def test_a_stopped_robot_is_a_warning():
    state = full_state()
    state.take(
        "SafetyStatus",
        "/robot0/safety_status",
        gate(state=3, detail="pressed by hand", cause="emergency_stop"),
    )
    assert "robot0: robot stopped, pressed by hand [emergency_stop]" in state.warnings()
    assert "EMERGENCY" in text_of(state)


def test_success_is_over_the_last_20_of_each_robot_and_source_apart():
    state = SystemState()
    for index in range(30):
        one = episode(outcome=1 if index >= 15 else 3, start_ns=index)
        assert state.take("EpisodeResult", "/e", one)
        assert not state.take("EpisodeResult", "/bridged/e", one)  # it is heard there as well
    state.take("EpisodeResult", "/e", episode(outcome=2, source=EVALUATION, start_ns=99))
    assert state.rate_of(ONLINE) == (0.75, 20)
    assert state.rate_of(EVALUATION) == (0.0, 1)
    assert (state.corrections.total.by_person, state.corrections.total.takeovers) == (60, 30)


def test_how_often_a_person_corrects_is_shown_over_time(tmp_path):
    state, history = SystemState(), History(tmp_path / "history.jsonl", lambda: 5.0)
    assert "corrections" not in text_of(full_state()), "nobody corrected anything"
    for index in range(40):  # three times an episode at first, then once in two
        one = episode(start_ns=index)
        one.takeovers = 3 if index < 20 else index % 2
        one.interventions = 15 if index < 20 else 3 * (index % 2)
        state.take("EpisodeResult", "/e", one)
        history.episode(one)
    state.take("EpisodeResult", "/e", episode(source=DEMONSTRATION, start_ns=99))  # does not count
    assert state.corrections.lately.per_episode == 0.5
    assert state.corrections.lately.share == 30 / 600
    said = "0.50 an episode, 5% of the steps by a person (last 20)  ██▂▂"
    assert said in text_of(state)
    assert dict(snapshot(state).learner)["corrections"] == said
    history.state(state)
    history.close()
    lines = read_history(tmp_path / "history.jsonl")
    assert lines[-1]["takeovers_per_episode"] == 0.5 and lines[-1]["person_share"] == 0.05
    curve = RunSeries(lines).takeovers()
    assert (curve.values[19], curve.values[39]) == (3.0, 0.5)
    report = write_report(tmp_path).read_text()
    assert (
        "| corrections, first 20 episodes | 3.00 an episode, 50% of the steps by a person |"
        in report
    )
    assert (
        "| corrections, last 20 episodes | 0.50 an episode, 5% of the steps by a person |" in report
    )
    assert (tmp_path / "plots" / "corrections.png").stat().st_size > 5000


def test_a_history_of_before_tells_that_somebody_corrected():
    old = {"kind": "episode", "source": 0, "length": 30, "interventions": 12}
    assert Corrected.of(old) == Corrected(1, 12, 30, 1)
    assert Corrected.of({**old, "interventions": 0}) == Corrected(0, 0, 30, 1)


def test_the_history_can_be_read_again_also_after_a_crash(tmp_path):
    file = tmp_path / "history.jsonl"
    history = History(file, lambda: 5.0)
    history.episode(episode())
    history.state(full_state())
    history.close()
    with file.open("a") as stream:
        stream.write('{"t": 6, "kind": "sta')
    lines = read_history(file)
    assert [line["kind"] for line in lines] == ["episode", "state"]
    assert lines[0]["reason"] == "solved"
    assert lines[1]["update"] == 5000
    assert lines[1]["metrics"] == {"critic_loss": 0.1}
    assert lines[1]["stored_steps"] == 2000
    assert json.loads(json.dumps(lines))


def test_evaluations_are_counted_by_policy_version_and_what_nobody_can_judge_does_not_count():
    state = SystemState()
    for index, (version, outcome) in enumerate(
        [(3, 2), (3, 2), (9, 1), (9, 1), (9, 3), (9, 5), (9, 4)]
    ):
        one = episode(
            outcome=outcome, source=EVALUATION, start_ns=index, first_version=version,
            last_version=version,
        )  # fmt: skip
        state.take("EpisodeResult", "/e", one)
    version, share = state.evaluations.newest
    assert (version, share.successes, share.count, state.evaluations.unknown) == (9, 2, 3, 2)
    assert "67% of 3 (21 to 94%) of v9" in text_of(state)
    assert "evaluation 67% of 3 (21 to 94%) of v9" in one_line(state)
    both, versions = state.evaluations.last(4)
    assert (both.successes, both.count, versions) == (2, 5, [3, 9])
    assert state.evaluations.last(3)[1] == [9]


def test_versions_with_one_evaluation_each_are_counted_together():
    state = SystemState()
    for index in range(30):  # the last 20 episodes: 12 successes of 20
        one = episode(
            outcome=1 if index % 5 < 3 else 2, source=EVALUATION, start_ns=index,
            first_version=index + 1, last_version=index + 1,
        )  # fmt: skip
        state.take("EpisodeResult", "/e", one)
    assert state.evaluations.newest[1].count == 1
    assert "60% of 20 (39 to 78%) of v11 to v30" in text_of(state)
    assert "evaluation 60% of 20 (39 to 78%) of v11 to v30" in one_line(state)
    for index in range(30, 33):  # a round of three of one version tells about it alone
        one = episode(outcome=2, source=EVALUATION, start_ns=index, last_version=31)
        state.take("EpisodeResult", "/e", one)
    assert "0% of 3 (0 to 56%) of v31" in text_of(state)


def test_no_verdict_is_a_dash_and_no_failure():
    state = SystemState()
    for index in range(5):
        for source in (ONLINE, EVALUATION):
            one = episode(outcome=5, source=source, start_ns=10 * index + source)
            state.take("EpisodeResult", "/e", one)
    assert math.isnan(state.rate_of(ONLINE)[0])
    assert "evaluation ░░░░░░░░░░░░ - 5 episodes that nobody can judge" in text_of(state)
    assert "success -, evaluation -" in one_line(state)
    assert not state.evaluations.shares


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (15, 20, 0.531, 0.888), (1, 1, 0.207, 1.0)],
)
def test_the_interval_is_that_of_wilson(successes, count, low, high):
    assert Share(successes, count).interval == pytest.approx((low, high), abs=0.001)
    assert str(Share()) == "-" and Share().interval == (0.0, 1.0)


def test_a_run_in_which_nothing_was_collected_says_why():
    def deployment(*executables):
        return SimpleNamespace(
            processes=[SimpleNamespace(executable=e, parameters={}) for e in executables]
        )

    acting, state = deployment("hal_node", "actor_node"), SystemState()
    assert why_it_never_ran(deployment("learner_node"), state) == ""
    assert why_it_never_ran(acting, state) == "no actor was heard of"
    state.take(
        "ActorStatus",
        "/a",
        actor(steps=0, code="node_waits", detail="the robot's spec", warnings=[]),
    )
    assert "the robot's spec" in why_it_never_ran(acting, state)
    state.take("ActorStatus", "/a", actor(steps=0, code="waits_for_go", detail="say go"))
    assert why_it_never_ran(acting, state) == ""
    state.take("ActorStatus", "/a", actor(steps=1))
    assert why_it_never_ran(acting, state) == ""


def test_a_run_of_which_the_store_refused_everything_has_not_run_well():
    deployment = SimpleNamespace(processes=[SimpleNamespace(executable="actor_node")])
    state = full_state()
    refused = actor(
        warnings=["store refused chunk 1: other shapes"], warning_codes=["store_refused"]
    )
    state.take("ActorStatus", "/a", refused)
    assert why_it_never_ran(deployment, state) == ""  # it has 2000 steps of before
    next(iter(state.replays.values())).message.steps = 0
    assert "other shapes" in why_it_never_ran(deployment, state)
    state.take("ActorStatus", "/a", actor())
    assert why_it_never_ran(deployment, state) == ""


def test_that_success_is_never_judged_is_known_before():
    def deployment(**loop):
        one = SimpleNamespace(executable="actor_node", parameters={"loop": loop})
        return SimpleNamespace(processes=[one])

    assert "nothing acts" in why_without_success(SimpleNamespace(processes=[]))
    assert "evaluate_every" in why_without_success(deployment())
    assert "evaluate_every" in why_without_success(deployment(evaluation={"every": 0}))
    assert why_without_success(deployment(evaluation={"every": 3})) == ""
    assert why_without_success(deployment(mode="evaluation")) == ""


def test_a_share_that_cannot_be_is_refused_at_once(capsys):
    with pytest.raises(SystemExit):
        up_main(["gymnasium", "--until-success", "80"])
    assert "80 can never be reached" in capsys.readouterr().err


def test_what_was_said_long_ago_is_no_warning():
    clock = Clock()
    state = full_state(clock)
    state.take("SafetyStatus", "/robot0/s", gate(state=2, detail="no command", cause="watchdog"))
    assert any("no command" in warning for warning in state.warnings())
    clock.now_s += 6
    assert state.warnings() == ["actor0 is silent", "/replay_status is silent",
                                "/learner_status is silent"]  # fmt: skip


def test_numbers_for_people():
    assert bar(0.5, 4) == "██░░"
    assert bar(math.nan, 4) == "░░░░"
    assert percent(math.nan) == number(math.nan, 1) == duration(math.nan) == "-"
    assert [size(n) for n in (5, 1500, 2e6, 3e9, 4e12)] == [
        "5 B", "1.5 kB", "2.0 MB", "3.0 GB", "4.0 TB",
    ]  # fmt: skip
    assert [duration(s) for s in (1.25, 600, 7300)] == ["1.2 s", "10 min", "2.0 h"]


def test_what_the_lifecycle_manager_says_is_shown():
    def status(name, level, message, state):
        values = [SimpleNamespace(key="state", value=state)]
        return SimpleNamespace(name=name, level=level, message=message, values=values)

    state = full_state()
    array = SimpleNamespace(
        status=[
            status("lifecycle_manager: lifecycle", b"\x00", "active", "active"),
            status("lifecycle_manager: managed hal", b"\x00", "active", "active"),
            status("lifecycle_manager: managed teleop", b"\x02", "given up: no device", "inactive"),
        ]
    )
    state.take("DiagnosticArray", "/diagnostics", array)
    text = text_of(state)
    assert "teleop: given up: no device" in text
    assert "teleop inactive" in text
    assert "hal" in state.managed and "lifecycle" not in state.managed


def traffic(name, message="", **values):
    items = [SimpleNamespace(key=key, value=str(value)) for key, value in values.items()]
    return SimpleNamespace(name=name, level=b"\x00", message=message, values=items)


def test_links_and_what_goes_over_them_are_shown_in_the_terminal_and_on_the_page():
    clock = Clock()
    state = SystemState(clock)
    flow = traffic("robot0.actor: flow trajectory", goodput_bytes_s=2e6, again=3, refused=1)
    state.take("DiagnosticArray", "/diagnostics", SimpleNamespace(status=[flow]))
    assert state.links() == []  # all is on one machine
    link = traffic(
        "robot0.bridge: link network", "connected to tls/lab:7447", up=True, round_trip_ms=83.4
    )
    state.take("DiagnosticArray", "/diagnostics", SimpleNamespace(status=[link]))
    shown = [[cell for cell in row if cell] for row in snapshot(state).links]
    assert shown == [
        ["robot0.bridge", "link network", "83 ms", "connected to tls/lab:7447"],
        ["robot0.actor", "flow trajectory", "2.0 MB/s", "3", "1"],
    ]
    text = text_of(state)
    assert "83 ms" in text
    assert "2.0 MB/s" in text
    clock.now_s += 60  # nothing is said of it any more
    assert snapshot(state).links == ()


def test_the_line_of_a_log_shows_returns_where_there_is_no_success():
    from user_bringup.cli.up import one_line

    state = SystemState()
    for start_ns, value in enumerate((-1200.0, -400.0)):
        state.take(
            "EpisodeResult", "/robot0/episode_result",
            SimpleNamespace(
                robot="robot0", source=0, outcome=3, episode_return=value, interventions=0, takeovers=0, length=30,
                start_ns=start_ns, end_ns=start_ns,
            ),
        )  # fmt: skip
    assert "return -800.00  success 0%" in one_line(state)


def test_late_steps_are_told_last():
    state = full_state(Clock())
    late = actor(warnings=["3 steps were late"], warning_codes=["steps_irregular"])
    state.take("ActorStatus", "/robot0/actor_status", late)
    flagged = replay(warnings=["disk is slow"], warning_codes=[""])
    state.take("ReplayStatus", "/replay_status", flagged)
    assert state.warnings()[-1] == "actor0: 3 steps were late [steps_irregular]"
    assert "disk is slow" in str(state.warnings()[:-1])


def test_the_history_tells_robots_apart_and_whose_data_look_wrong(tmp_path):
    clock = Clock()
    state = full_state(clock)
    state.take("ActorStatus", "/robot1/actor_status", actor(actor="actor1", robot="ur5e"))
    said = "ur5e: 1 of its last 20 episodes succeeded"
    flagged = replay(warnings=["disk is slow", said], warning_codes=["", "below_peers"])
    state.take("ReplayStatus", "/replay_status", flagged)
    assert state.flags() == [f"{said} [below_peers]"]
    assert f"replay_status: {said} [below_peers]" in state.warnings()
    history = History(tmp_path / "history.jsonl", lambda: 5.0)
    history.state(state)
    clock.now_s += 6
    state.take("ActorStatus", "/robot0/actor_status", actor())
    history.state(state)
    history.close()
    first, second = read_history(tmp_path / "history.jsonl")
    assert first["robots"].keys() == {"panda", "ur5e"}
    assert first["robots"]["ur5e"]["version"] == 7 and first["robots"]["ur5e"]["age_s"] == 3.2
    assert first["flags"] == [f"{said} [below_peers]"]
    assert second["robots"].keys() == {"panda"}, "the other one is silent"
    assert "flags" not in second, "so is who said it"


def test_without_a_deployment_those_that_are_installed_are_listed(capsys):
    assert up_main([]) == 2
    said = capsys.readouterr().out
    for name in shared_names("deployments"):
        assert name in said
    assert "A real robot on ROS 2 topics" in said and "[name:=value ...]" in said
