"""The sentences of events, as `events`, the page and commands show them."""

from typing import Any

import pytest

from comet.events.event import line


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"settings": {"reset": 10.0}, "for_s": 1.97425}, "front faults: reset=10 for 1.97 s"),
        (
            {"settings": {"hang": 0.5}, "for_s": 0.25, "count": 1},
            "front faults: hang=0.5 for 0.25 s for the next request",
        ),
        ({"settings": {"refuse": True}, "for_s": 604800.0}, "front faults: refuse=true for 604800 s"),
        ({"settings": {"headers": ["A: b", "C: d"], "status": 429}}, "front faults: headers='A: b', 'C: d' status=429"),
        (
            {"settings": {"body": None, "path": "/a"}, "count": 2},
            "front faults: body=none path=/a for the next 2 requests",
        ),
    ],
)
def test_faults_are_said_as_a_file_has_them(fields: dict[str, Any], said: str) -> None:
    assert line({"event": "faults_changed", "replica": "front", **fields}) == said
