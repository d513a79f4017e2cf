"""The list of replicas without scripts: cells as the page formats them, escaped, with headings for narrow screens."""

from comet.admin.html_table import PLACEHOLDER, fill

ROW = {
    "name": "worker-0", "kind": "container", "id": "<b>", "state": "ready", "port": 6000, "uptime_s": 185.2,
    "cpu_percent": 1.4, "memory_bytes": 36_000_000, "requests_per_s": 1240.4, "errors_per_s": 0.0, "p50_ms": 21.34,
    "p99_ms": 1240.0, "in_flight": 2, "requests": 21873, "restarts": 1,
    "last_exit": {"code": -9, "signal": "SIGKILL", "oom": False}, "faults": {"failure": 12.0, "status": 503},
}  # fmt: skip


def test_a_row_reads_like_that_of_the_page() -> None:
    html = fill(f"<tbody>{PLACEHOLDER}</tbody>", [ROW])
    for cell in (
        'data-label="Uptime">3 m 05 s<', 'data-label="CPU">1.40 %<', 'data-label="Memory">34.3 MiB<',
        'data-label="Requests/s">1,240<', 'data-label="p50">21.3 ms<', 'data-label="p99">1.24 s<',
        'data-label="Requests">21,873<', 'data-label="Last exit">SIGKILL<',
        'data-label="Faults">failure 12 %, status 503<', 'data-label="Id">&lt;b&gt;<',
    ):  # fmt: skip
        assert cell in html


def test_what_is_unknown_is_a_dash() -> None:
    assert 'data-label="p50">-<' in fill(PLACEHOLDER, [{"name": "lb-0", "p50_ms": None}])


def test_a_drained_worker_is_marked() -> None:
    assert 'data-label="State">ready (drained)<' in fill(PLACEHOLDER, [{**ROW, "drained": True}])
    assert 'data-label="State">ready<' in fill(PLACEHOLDER, [{**ROW, "drained": False, "orphan": False}])
