"""Curves of runs at the console: the newest choice is drawn, on a page that is still there."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("nicegui", reason="nicegui is not installed")

from nicegui import Client, core, ui

from user_bringup.console.pages import episodes as episode_pages
from user_bringup.console.pages.run_curves import _points
from user_bringup.report import Curve


class Histories:
    """Stands for histories of runs; minutes take until a test lets them go on."""

    def __init__(self):
        self.go, self.asked = threading.Event(), []

    def curves_of(self, runs, over):
        self.asked.append(over)
        if over == "minutes":
            assert self.go.wait(60)
        return {"updates": {"r": [(0.0, 1.0), (1.0, 2.0)]}}


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Has a test draw on a page: a coroutine of histories and client."""
    histories = Histories()
    monkeypatch.setattr(episode_pages, "curves_of", histories.curves_of)
    console = SimpleNamespace(config=SimpleNamespace(run_dir=str(tmp_path)))

    def on(test):
        async def shown():
            monkeypatch.setattr(core, "loop", asyncio.get_running_loop())
            client = Client(ui.page("/curves"))
            with client:
                await episode_pages._curves(console)
            await test(histories, client)

        asyncio.run(shown())

    yield on
    histories.go.set()


def elements(client, kind):
    return [one for one in client.elements.values() if isinstance(one, kind)]


async def choose(histories, client, over):
    (toggle,), before = elements(client, ui.toggle), len(histories.asked)
    toggle.set_value(over)
    while len(histories.asked) == before:
        await asyncio.sleep(0.002)


def test_what_was_chosen_last_is_drawn_though_it_was_read_first(page):
    async def test(histories, client):
        await choose(histories, client, "minutes")
        await choose(histories, client, "steps")
        await asyncio.sleep(0.05)
        histories.go.set()
        await asyncio.sleep(0.05)
        (chart,) = elements(client, ui.echart)
        assert chart.options["xAxis"]["name"] == "steps"

    page(test)


def test_a_page_that_was_closed_meanwhile_is_not_drawn_on(page):
    async def test(histories, client):
        (chart,) = elements(client, ui.echart)
        await choose(histories, client, "minutes")
        client.delete()
        histories.go.set()
        await asyncio.sleep(0.05)
        assert chart.options["xAxis"]["name"] == "steps"

    page(test)


def test_a_curve_equals_itself_where_a_number_is_missing():
    """Else its chart would be sent anew each time."""
    values = np.array([1.0, np.nan, 2.0])
    curve = Curve(np.arange(3.0), np.arange(3.0), values)
    assert _points(curve, "steps") == _points(curve, "steps") == [(0.0, 1.0), (2.0, 2.0)]
