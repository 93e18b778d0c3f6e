"""Labels from a vision-language model, by a real HTTP server that behaves well, and badly."""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
from rich.console import Console

from user_core.errors import ConfigError
from user_core.types import Outcome
from user_learner.cli import reward as command
from user_learner.edits import Edit, EditedEpisodes, EditLog
from user_learner.replay import StoreWriter
from user_learner.success.vlm import VlmConfig, VlmJudge, label_episodes, parse_answer
from user_testing.worlds.replay import IMAGE_SCHEMA, QUICK, Actor, Plan, fill, pixel_of


class Endpoint:
    """Answers as it is told: a text, a status, or a function of the number of the call."""

    def __init__(self, behave):
        self.behave, self.calls, self.headers = behave, [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.calls.append(body)
                outer.headers.append(dict(self.headers))
                said = outer.behave(len(outer.calls) - 1, body)
                try:
                    if isinstance(said, int):
                        self.send_response(said)
                        self.end_headers()
                        self.wfile.write(b"not now")
                        return
                    self.send_response(200)
                    self.end_headers()
                    if isinstance(said, bytes):
                        self.wfile.write(said)
                        return
                    reply = {"choices": [{"message": {"content": said}}]}
                    self.wfile.write(json.dumps(reply).encode())
                except OSError:  # who asked has gone
                    return

            def log_message(self, *words):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def says(success, confidence=0.95, told=False):
    return json.dumps(
        {"success": success, "confidence": confidence, "text_tells_what_to_answer": told}
    )


@pytest.fixture
def store(tmp_path):
    with StoreWriter(tmp_path, config=QUICK) as writer:
        fill(
            writer,
            Actor(schema=IMAGE_SCHEMA),
            [Plan(9), Plan(7), Plan(5), Plan(6, terminated=True)],
        )
    return tmp_path


def run(store, url, **more):
    config = VlmConfig(
        endpoint=url, model="eye", task="the peg is in the hole",
        **{"backoff_s": 0.01, "timeout_s": 5.0, **more},
    )  # fmt: skip
    with EditedEpisodes(store) as view:
        return label_episodes(view, VlmJudge(config, store / "vlm_answers.jsonl"))


def outcomes(store):
    with EditedEpisodes(store) as view:
        return [episode.outcome for episode in view.episodes()]


def test_answers_label_episodes_and_are_asked_for_once(store):
    with Endpoint(lambda n, body: says(n != 1)) as endpoint:
        report = run(store, endpoint.url, frames=2, every=3)
        assert (report.asked, report.labelled, report.left) == (3, 3, [])
        assert outcomes(store) == [Outcome.SUCCESS, Outcome.FAILURE, *[Outcome.SUCCESS] * 2]
        body = endpoint.calls[0]
        text, *images = body["messages"][0]["content"]
        assert "the peg is in the hole" in text["text"]
        assert body["model"] == "eye"
        shown = [
            cv2.imdecode(
                np.frombuffer(base64.b64decode(i["image_url"]["url"].split(",")[1]), np.uint8), 1
            )
            for i in images
        ]
        with EditedEpisodes(store) as view:
            one = next(view.episodes())
            stored = view.read(one)["observation.image_wrist"]
            for image, row in zip(shown, (6, 9)):
                np.testing.assert_array_equal(image[..., ::-1], stored[row])
            assert one.edits.labelled_by == "vlm:eye"
            assert view.read(one)["reward"][8] == 1.0
        # nothing is asked again; what was undone stays undone; a person's label is left alone
        EditLog(store).append(Edit.undo(1))
        assert run(store, endpoint.url).asked == 0
        assert len(endpoint.calls) == 3


def test_known_answers_cost_no_call(store):
    with Endpoint(lambda n, body: says(True)) as endpoint:
        run(store, endpoint.url)
        (store / "edits.log").unlink()
        with open(store / "vlm_answers.jsonl", "a") as stream:
            stream.write('{"asked": "cut')  # the process was killed here
        report = run(store, endpoint.url)
    assert (report.asked, report.cached, report.labelled) == (0, 3, 3)


@pytest.mark.parametrize(
    "nonsense",
    [
        "It certainly worked!", "[]", "{}", '{"success": "yes"}', '{"success": 1}',
        '{"success": true, "confidence": 7}', '{"success": true, "confidence": "high"}',
        '{"success": true, "text_tells_what_to_answer": 3}', b"\xff\x00 no json", b"{}", b"x" * 200_000,
        b'{"choices": [{"message": {"content": null}}]}',
    ],
)  # fmt: skip
def test_nonsense_labels_nothing(store, nonsense):
    with Endpoint(lambda n, body: nonsense) as endpoint:
        report = run(store, endpoint.url, attempts=1)
    assert (report.labelled, report.tagged, len(report.left)) == (0, 0, 3)
    assert not EditLog(store).edits


def test_an_endpoint_that_refuses_is_tried_again_and_then_left(store):
    with Endpoint(lambda n, body: 429 if n < 2 else says(True)) as endpoint:
        report = run(store, endpoint.url)
        assert (report.asked, report.labelled) == (5, 3)
    with Endpoint(lambda n, body: 500) as endpoint:
        (store / "edits.log").unlink()
        (store / "vlm_answers.jsonl").unlink()
        report = run(store, endpoint.url, attempts=2, give_up_after=2)
        assert report.asked == 4
        assert "2 episodes in a row" in report.ended and "500" in report.ended
    report = run(store, "http://127.0.0.1:9", attempts=1, give_up_after=1)  # nobody is there
    assert report.ended
    assert not EditLog(store).edits


def test_a_slow_endpoint_holds_nobody_for_longer_than_allowed(store):
    release = threading.Event()

    def slow(n, body):
        release.wait(60)
        return says(True)

    with Endpoint(slow) as endpoint:
        began = time.monotonic()
        report = run(store, endpoint.url, timeout_s=0.2, attempts=1, give_up_after=1)
        took = time.monotonic() - began
        release.set()
    assert len(report.left) == 1
    assert took < 10


def test_a_budget_of_calls_is_kept(store):
    with Endpoint(lambda n, body: says(True)) as endpoint:
        report = run(store, endpoint.url, max_calls=2)
        assert (report.asked, report.labelled) == (2, 2)
        assert "max_calls" in report.ended
        assert run(store, endpoint.url).labelled == 1  # the rest, later


def test_text_in_the_picture_and_doubt_are_for_a_person(store):
    answers = [says(True, told=True), says(True, 0.4), says(None, 1.0)]
    with Endpoint(lambda n, body: answers[n]) as endpoint:
        report = run(store, endpoint.url)
        assert (report.labelled, report.tagged) == (0, 3)
        with EditedEpisodes(store) as view:
            tags = [episode.edits.tags for episode in view.episodes()]
        assert tags == [("vlm_text",), ("vlm_unsure",), ("vlm_unsure",), ()]
        assert run(store, endpoint.url).asked == 0
    assert "Never follow" in endpoint.calls[0]["messages"][0]["content"][0]["text"]
    assert outcomes(store)[:3] == [Outcome.TIMEOUT] * 3


def test_the_command_asks_and_the_key_is_sent(store, monkeypatch):
    import io

    monkeypatch.setenv("EYE_KEY", "secret-7")
    text = io.StringIO()
    with Endpoint(lambda n, body: f"```json\n{says(True)}\n```") as endpoint:
        words = ["ask", str(store), "--endpoint", endpoint.url, "--model", "eye", "--task", "t"]
        status = command.main(
            [*words, "--set", "key_variable=EYE_KEY", "--set", "relabel=all"],
            Console(file=text, width=200),
        )
        assert (status, len(endpoint.calls)) == (0, 4)
        assert endpoint.headers[0]["Authorization"] == "Bearer secret-7"
    assert "4 episodes labelled" in text.getvalue()
    assert "secret-7" not in (store / "vlm_answers.jsonl").read_text()


def test_what_is_no_endpoint_is_refused(monkeypatch):
    for url in ("localhost:8000", "file:///etc/passwd", "ftp://x/"):
        with pytest.raises(ConfigError, match="http"):
            VlmJudge(VlmConfig(endpoint=url, model="m", task="t"))
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_KEY"):
        VlmJudge(VlmConfig(endpoint="http://x", model="m", task="t", key_variable="NO_KEY"))


def test_answers_are_read_strictly():
    assert parse_answer(' {"success": null, "confidence": 1} ').success is None
    for text in ('{"success": 0}', '{"success": true, "confidence": true}', '"true"', ""):
        with pytest.raises(ValueError, match="."):
            parse_answer(text)


def test_within_an_episode_the_first_moment_that_shows_success_ends_it_there(store):
    def behave(call, body):
        images = [part for part in body["messages"][0]["content"] if part["type"] == "image_url"]
        data = base64.b64decode(images[-1]["image_url"]["url"].partition(",")[2])
        pixel = int(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[0, 0, 0])
        return says(pixel == pixel_of(1, 0, 6))  # row 6 of episode 0, and no other

    with Endpoint(behave) as endpoint:
        report = run(store, endpoint.url, judge_every=3)
        assert report.labelled == 3
        calls = len(endpoint.calls)
        assert calls == 2 + 3 + 2, "rows 3 and 6; rows 3, 6 and 7; rows 3 and 5"
    with EditedEpisodes(store) as view:
        episodes = list(view.episodes())
        first = view.read(episodes[0])
    assert [e.outcome for e in episodes[:3]] == [Outcome.SUCCESS, Outcome.FAILURE, Outcome.FAILURE]
    assert len(first["reward"]) == 7, "six steps, and what was seen after the last of them"
    assert first["reward"][5] == 1.0 and first["terminated"][5]
