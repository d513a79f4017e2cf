"""What strict clients read from a greeting, and what is left of a worker's arguments for Docker's own restart
policy.
"""

import pytest

from scripts.bench.keepers import without_faults
from scripts.bench.strict import served_by


def test_the_workers_name_for_itself() -> None:
    assert served_by(b'{"message":"hello from container: fdbaa57c12d3"}') == "fdbaa57c12d3"
    assert served_by(b'{"message":"hello from process: 4711.2"}') == "4711.2"


def test_another_answer_is_malformed() -> None:
    with pytest.raises(ValueError, match="no greeting"):
        served_by(b'{"message":"goodbye"}')


def test_the_file_of_faults_is_left_out() -> None:
    assert without_faults(["--listen", "x", "--faults", "/faults/a.json", "--grace", "5"]) == [
        "--listen",
        "x",
        "--grace",
        "5",
    ]
    assert without_faults(["--listen", "x"]) == ["--listen", "x"]
