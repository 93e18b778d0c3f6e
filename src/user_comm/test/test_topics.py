"""The topic table holds together, and the reference page says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from user_comm import topics
from user_comm.topics import Durability, Quality, Reliability, main, markdown
from user_core.errors import ConfigError

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "topics.md"


def test_the_reference_page_is_the_table() -> None:
    if not PAGE.exists() and not (PAGE.parents[2] / "ARCHITECTURE.md").exists():
        pytest.skip("the package stands alone, without the repository's docs")
    assert PAGE.read_text(encoding="utf-8") == markdown(), (
        "run: python -m user_comm.topics > docs/reference/topics.md"
    )


def test_every_topic_and_service_of_the_module_stands_in_its_table() -> None:
    for name, value in vars(topics).items():
        if isinstance(value, topics.Topic):
            assert value in topics.TOPICS, name
        if isinstance(value, topics.Service):
            assert value in topics.SERVICES, name


def test_names_are_unique_and_relative() -> None:
    names = [item.name for item in (*topics.TOPICS, *topics.SERVICES)]
    assert len(names) == len(set(names))
    absolute = [name for name in names if name.startswith("/")]
    assert absolute == ["/diagnostics"]  # REP-107; all others live in a namespace


def test_commands_keep_the_newest_only_and_announcements_are_latched() -> None:
    assert topics.ACTION.quality.depth == 1
    for topic in (topics.POLICY, topics.ROBOT_SPEC, topics.SAFETY_STATUS):
        assert topic.quality == Quality(1, Reliability.RELIABLE, Durability.TRANSIENT_LOCAL), (
            topic.name
        )
    for topic in (topics.TRAJECTORY, topics.OBSERVATION, topics.ACTION):
        assert topic.quality.reliability is Reliability.RELIABLE, topic.name


def test_places_are_filled_in_or_refused() -> None:
    assert topics.CAMERA_IMAGE.at(camera="wrist").name == "camera/wrist/image_raw"
    with pytest.raises(ConfigError, match="camera"):
        topics.CAMERA_IMAGE.at(kamera="wrist")
    with pytest.raises(ConfigError):
        topics.ACTION.at(camera="wrist")


def test_the_terminal_shows_every_name_and_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    for item in (*topics.TOPICS, *topics.SERVICES):
        assert item.name in text and item.type in text
