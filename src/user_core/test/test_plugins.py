import sys

import pytest

from user_core import plugins
from user_core.errors import ConfigError, PluginError
from user_core.fakes import FakeRobot


def test_ours_are_registered_as_a_users_would_be():
    for kind in plugins.KINDS:
        assert plugins.available(kind)
        for name in plugins.available(kind):
            if plugins.available(kind)[name].value.startswith("user_core"):
                assert issubclass(plugins.load(kind, name), plugins.KINDS[kind])


def test_a_plugin_is_built_with_its_checked_parameters():
    robot = plugins.build("robots", "fake", {"episode_steps": 7})
    assert isinstance(robot, FakeRobot)
    assert robot.config.episode_steps == 7
    with pytest.raises(ConfigError, match="'robot.params.episode_step'.*did you mean"):
        plugins.build("robots", "fake", {"episode_step": 7}, path="robot.params")


def test_one_that_is_not_registered_can_be_named_by_its_path():
    assert plugins.load("robots", "user_core.fakes:FakeRobot") is FakeRobot


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("robots", "fkae", ["'fkae'", "fake", "did you mean"]),
        ("robotz", "fake", ["robotz", "robots"]),
        ("robots", "no_such_module:X", ["no_such_module", "cannot be imported"]),
        ("robots", "user_core.fakes:FakeCamera", ["FakeCamera", "user_core.interfaces.Robot"]),
        ("robots", "user_core.fakes:make", ["cannot be imported"]),
        ("robots", "user_core.fakes:FakeRobott", ["Did you mean user_core.fakes:FakeRobot?"]),
    ],
)
def test_a_wrong_name_says_what_there_is(kind, name, words):
    with pytest.raises(PluginError) as caught:
        plugins.load(kind, name)
    for word in words:
        assert word in str(caught.value)


def test_a_plugin_whose_import_fails_is_named_with_the_cure(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match="Install the Python module 'not_installed_anywhere'"):
        plugins.load("rewards", "needy:Reward")
    sys.modules.pop("needy", None)


def test_a_module_that_has_not_the_name_is_not_said_to_be_missing(tmp_path, monkeypatch):
    (tmp_path / "older.py").write_text("from user_core.fakes import FakeRobott")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        PluginError, match=r"'user_core.fakes' is there, in another version"
    ) as caught:
        plugins.load("rewards", "older:Reward")
    assert "Install" not in str(caught.value)
    (tmp_path / "linked.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file', name='cv2')"
    )
    with pytest.raises(PluginError, match=r"libGL.so.1") as caught:
        plugins.load("rewards", "linked:Reward")
    assert "another version" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise KeyError", "KeyError"),
        (
            "class Mute(Exception):\n    def __str__(self): raise OSError\nraise Mute",
            "Mute: an error",
        ),
    ],
)
def test_whatever_a_plugin_does_while_it_is_imported_is_an_error_with_its_name(
    code, words, tmp_path, monkeypatch
):
    (tmp_path / "rude.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError, match=rf"'rude:Reward' .* cannot be imported: got {words}"):
        plugins.load("rewards", "rude:Reward")
    with pytest.raises(PluginError, match=f"cannot import 'rude:Wrapper': got {words}"):
        plugins.import_object("rude:Wrapper")
    sys.modules.pop("rude", None)


def test_one_that_is_installed_meanwhile_is_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "late" not in plugins.available("robots")
    info = tmp_path / "late-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: late\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[user.robots]\nlate = user_core.fakes:FakeRobot\n")
    assert plugins.load("robots", "late") is FakeRobot


def test_functions_are_found_by_path():
    assert plugins.import_object("os.path:join")("a", "b") == "a/b"
    for wrong in ("os.path:nothing", "os.path", "nowhere:x", ""):
        with pytest.raises(PluginError, match="package.module:name"):
            plugins.import_object(wrong)


def test_an_empty_mapping_in_a_file_of_ros_parameters_is_told_of():
    """ROS takes what follows `params: {}` for a part of it, and the plugin was the default one."""
    with pytest.raises(
        ConfigError, match=r"params: got plugin: 'flow'.*leave an empty `params: \{\}` out"
    ):
        plugins.PluginChoice(plugin="tanh_gaussian", params={"plugin": "flow"})
