"""What replicas print stays bounded while they run, and is followed all the same."""

from pathlib import Path

from comet.drivers.execute import KEEP_LOG_BYTES, trim
from comet.logs import _from_file


def test_a_grown_log_is_cut_under_its_writers_hands_and_its_last_part_kept(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"first\n")
        follower = _from_file(path, 10, follow=True)
        assert next(follower) == "first"
        trim([path, tmp_path / "nobody.log"])
        assert path.read_bytes() == b"first\n"
        writer.write(b"x" * KEEP_LOG_BYTES + b"\nlast\n")
        assert [len(next(follower)), next(follower)] == [KEEP_LOG_BYTES, "last"]
        trim([path])
        writer.write(b"after\n")
        assert next(follower) == "after"
    assert path.read_bytes() == b"after\n"
    kept = (tmp_path / "worker-0.log.1").read_bytes()
    assert (len(kept), kept[-5:]) == (KEEP_LOG_BYTES, b"last\n")
