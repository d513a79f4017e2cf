"""Settings that are lists in a text: weights, networks, statuses."""

from collections.abc import Callable
from typing import Any

import pytest

from lb.interface.settings import Settings, changed, is_among, parse_networks, parse_statuses, parse_weights


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("200-399", (200, 204, 399), (199, 400, 100)),
        ("204", (204,), (200, 203, 205)),
        ("200,301-302, 401", (200, 301, 302, 401), (201, 300, 303, 400)),
        ("100-599", (100, 599), (99, 600)),
    ],
)
def test_statuses(text: str, good: tuple[int, ...], bad: tuple[int, ...]) -> None:
    ranges = parse_statuses(text)
    assert all(is_among(status, ranges) for status in good)
    assert not any(is_among(status, ranges) for status in bad)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *(
            (parse_statuses, text)
            for text in ("", "20", "2xx", "200-", "399-200", "99", "600", "200,,201", "2000", "-200")
        ),
        *((parse_weights, text) for text in ("w", "w=", "=1", "w=0", "w=257", "w=1.5", "w=-1", "w=1,", "w=\u0661")),
        *((parse_networks, text) for text in ("x", "10.0.0.0/33", "10.0.0", "::1/129", "10.0.0.1-10.0.0.2")),
    ],
)
def test_malformed(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


@pytest.mark.parametrize(
    "partial",
    [
        {"health_status": 200},
        {"weights": None},
        {"trusted_proxies": "x"},
        {"balance_key": "header:"},
        {"balance_key": "cookie:a b"},
        {"balance_cookie": ""},
        {"hash_balance_factor": 0},
        {"slow_start": -1},
        {"eject_max_percent": "50"},
    ],
)
def test_a_bad_value_changes_nothing(partial: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="setting"):
        changed(Settings(), partial)
