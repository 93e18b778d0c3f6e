"""Flows as diagnostics, and the table that people see."""

from user_comm.diagnostics import Flow, FlowFigures, Level
from user_comm.net.flow_table import FlowTable
from user_core.reasons import Reason


def test_a_flow_measures_its_goodput():
    clock, figures = [0.0], [FlowFigures()]
    flow = Flow("trajectory", lambda: figures[0], lambda: clock[0])
    for second in range(12):
        clock[0] = float(second)
        figures[0] = FlowFigures(bytes=1000 * second if second < 8 else 8000)
        item = flow.item()
    assert item.name == "flow trajectory"
    assert item.level is Level.OK
    assert 0 < item.values["goodput_bytes_s"] < 1000
    figures[0] = FlowFigures(note=Reason("policy", "a version was refused"))
    item = flow.item()
    assert (item.level, item.message) == (Level.WARN, "a version was refused")
    assert item.values["code"] == "policy"


def test_the_table_shows_traffic_and_nothing_else():
    table = FlowTable()
    flow = Flow("trajectory", lambda: FlowFigures(
        bytes=5, link_bytes_s=2.4e6, round_trip_s=0.09, base_s=0.08, backlog_bytes=3_000_000,
        backlog_age_s=12.0, again=7, coding="zstd",
    ))  # fmt: skip
    item = flow.item()
    values = {key: str(value) for key, value in item.values.items()}
    table.take("/r1/actor", item.name, item.message, values, 0.0)
    table.take("/r1/actor", "acting", "all is well", {"bytes": "9"}, 0.0)
    for second in range(4):
        table.take("/r1/bridge", "route r1/action in", "", {"bytes": str(500 * second)}, second)
    head, actor, bridge = table.lines(4.0)
    assert head.split()[:2] == ["node", "what"]
    for text in ("/r1/actor", "2.4 MB/s", "90 ms (80)", "3.0 MB", "12 s", "7", "images zstd"):
        assert text in actor
    assert "500 B/s" in bridge
    assert table.by_class(4.0) == {"trajectory": 0.0}


def test_who_is_silent_is_left_out():
    table = FlowTable(forget_s=5.0)
    table.take("/a", "flow policy", "", {"goodput_bytes_s": "1000000"}, 0.0)
    assert table.by_class(1.0) == {"policy": 1e6}
    assert len(table.lines(4.0)) == 2
    assert len(table.lines(6.0)) == 1


def test_values_that_are_no_numbers_do_no_harm():
    table = FlowTable()
    table.take("/a", "link urgent", "connected", {"bytes": "many", "round_trip_ms": "-"}, 0.0)
    assert "connected" in table.lines(1.0)[1]
