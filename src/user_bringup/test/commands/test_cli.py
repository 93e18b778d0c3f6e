import runpy
import shutil
import subprocess
import sys

import pytest

from user_bringup.cli.main import main


def test_help_lists_the_commands_with_their_first_lines(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "version" in text
    assert "Say which version of USER this is" in text
    assert "cannot be imported" not in text


def test_a_wrong_command_is_answered_with_the_nearest(capsys):
    assert main(["versoin"]) == 2
    assert "Did you mean 'version'?" in capsys.readouterr().err
    assert main([]) == 2


def test_version(capsys):
    assert main(["version"]) == 0
    assert "user_core" in capsys.readouterr().out


def test_errors_are_one_clear_message(capsys, tmp_path):
    assert main(["report", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("user report: no run in")
    assert "Traceback" not in error


@pytest.mark.parametrize("words", ["schemas FILE", "replay merge nowhere --into FILE"])
def test_a_file_where_a_folder_is_to_be_written_is_one_clear_message(capsys, tmp_path, words):
    file = tmp_path / "robot.yaml"
    file.write_text("robot: {}")
    assert main(words.replace("FILE", str(file)).split()) in (1, 2)
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    assert f"{file}: got File exists, expected the name of a folder" in told.out + told.err
    assert file.read_text() == "robot: {}"


def test_a_file_in_place_of_the_folder_of_all_runs_is_told_before_anything_else(capsys, tmp_path):
    file = tmp_path / "robot.yaml"
    file.write_text("robot: {}")
    # the misspelt parameter would be told, were the deployment read first
    assert main(["up", "sim_single", "learner.trainin:=1", "--runs", str(file)]) == 1
    assert f"got {file}, which is a file, expected a folder" in capsys.readouterr().err


def test_the_installed_command_runs():
    result = subprocess.run(["user", "version"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "ROS 2" in result.stdout


def test_processes_that_the_installed_command_starts_do_not_run_it_again():
    """Spawned, they load its file under another name; `user data import` starts some."""
    assert runpy.run_path(shutil.which("user"), run_name="__mp_main__")["main"] is main


@pytest.mark.parametrize("name", ["report", "version"])
def test_every_command_has_its_own_help(name):
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from user_bringup.cli.main import main; main(['{name}', '--help'])",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"usage: user {name}" in result.stdout


@pytest.mark.parametrize("command", ["up", "chaos", "soak"])
def test_arguments_of_a_deployment_may_come_before_and_after_the_options(capsys, command):
    words = ["nowhere", "device:=cuda", "--runs", "elsewhere", "seed:=1"]
    assert main([command, *words]) == 1
    assert "no deployment 'nowhere'" in capsys.readouterr().err
