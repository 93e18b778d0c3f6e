"""`user up` tells in the run's folder what it runs, and starts a process anew when somebody asks for it there."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest

from user_bringup.running.process_board import ProcessBoard, ProcessLine
from user_core.errors import ConfigError

LINES = [ProcessLine("hal", "running", "", 0, 11), ProcessLine("learner", "given up", "no GPU", 3)]


def test_what_is_told_is_read_as_long_as_who_told_it_lives(tmp_path):
    ProcessBoard(tmp_path).tell(LINES)
    reader = ProcessBoard(tmp_path)
    assert reader.lines() == tuple(LINES)
    file = tmp_path / "processes.json"
    told = json.loads(file.read_text())
    told["up"]["began"] += 1  # the same number, of another process
    file.write_text(json.dumps(told))
    os.utime(file, ns=(1, 1))
    assert reader.lines() == ()
    file.write_text("{half")
    assert ProcessBoard(tmp_path).lines() == ()
    assert ProcessBoard(tmp_path / "none").lines() == ()


def test_asking_is_heard_once_and_what_cannot_be_done_says_why(tmp_path):
    board = ProcessBoard(tmp_path)
    board.tell(LINES)
    heard = []

    def up():
        while not heard:
            heard.extend(board.asked())
            time.sleep(0.01)

    thread = threading.Thread(target=up)
    thread.start()
    ProcessBoard(tmp_path).ask("hal")
    thread.join(60)
    assert heard == ["hal"]
    assert board.asked() == []
    for name, why in (("learner", "given up"), ("../hal", "expected hal, learner")):
        with pytest.raises(ConfigError, match=why):
            board.ask(name)
    with pytest.raises(ConfigError, match="no answer"):
        board.ask("hal", patience_s=0.1)
    assert board.asked() == []
