"""The page of what people did."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fastapi import Request
from nicegui import ui

from user_bringup.console.pages.frame import Frame
from user_bringup.console.snapshot import Snapshot

if TYPE_CHECKING:
    from user_bringup.console.shared import Console


def add_acts_page(console: Console) -> None:
    """Register the page."""

    @ui.page("/acts")
    def acts(request: Request) -> None:
        _acts(console, Frame(console, request, "acts"))


def _acts(console: Console, frame: Frame) -> None:
    ui.label("What people did at this console").classes("text-xl")
    columns = [
        {"name": n, "label": n, "field": n, "align": "left"}
        for n in ("when", "who", "what", "whom", "answer")
    ]
    table = ui.table(columns=columns, rows=[], row_key="id").classes("w-full stacked")
    seen = [-1]

    def show(_: Snapshot) -> None:
        acts = list(console.acts.last)
        stamp = int(acts[-1].t * 1000) if acts else 0
        if stamp == seen[0]:
            return
        seen[0] = stamp
        table.rows = [
            {
                "id": number,
                "when": time.strftime("%m-%d %H:%M:%S", time.localtime(act.t)),
                "who": act.who,
                "what": act.what + ("" if act.ok else " (not done)"),
                "whom": act.whom.strip("/"),
                "answer": act.answer,
            }
            for number, act in enumerate(reversed(acts))
        ]

    frame.on_refresh.append(show)
    show(console.snapshot())
