"""The last lines of a log, drawn at random, against the rule written otherwise."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comet.host import files
from comet.runtimes import log_file
from tests.unit.runtimes.test_log_file import last

pytestmark = pytest.mark.slow  # Random input, and much of it.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@settings(deadline=None)
@given(
    parts=st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\n", b"\r\n", b"\xff"]), max_size=30),
    cut=st.integers(0, 40),
    count=st.integers(0, 12),
    block=st.integers(1, 7),
)
def test_the_tail_goes_back_into_what_was_put_aside(
    folder: Path, parts: list[bytes], cut: int, count: int, block: int
) -> None:
    content = b"".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        path = folder / "w.log"
        files.rotated_path(path).write_bytes(content[:cut])
        path.write_bytes(content[cut:])
        patch.setattr(log_file, "BLOCK", block)
        assert b"".join(log_file.tail(path, count)) == last(content, count)
