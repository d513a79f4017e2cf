"""What a command says it has done."""

from pathlib import Path

import pytest

from comet.commands import result_text
from comet.config.changes import changed_keys, changed_values
from comet.config.schema import parse

WHERE = Path("/somewhere/config.yaml")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("worker-memory: 128m", "worker-memory: 1g", "worker-memory 128m → 1024m"),
        ("worker: 3", "worker-threads: 10", "worker-threads auto → 10"),
        ("avg-delay: 500", "avg-delay: 20.5", "avg-delay 500 → 20.5"),
        ("worker: 3", "trusted-proxies: [10.0.0.1]", "trusted-proxies none → 10.0.0.1"),
    ],
)
def test_a_reload_shows_values_as_the_file_has_them(before: str, after: str, said: str) -> None:
    was, now = parse(before, WHERE), parse(after, WHERE)
    changed = changed_keys(was, now)
    result = {"changed": changed, "restarted": [], "values": changed_values(was, now, changed)}
    assert result_text.reload(result) == f"changed {said}"
