"""What is put off before system calls are measured."""

import pytest

from comet.compare.layers.probes import guards


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], []),
        (["name=seccomp,profile=default"], ["seccomp"]),
        (["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"], ["seccomp", "apparmor"]),
        (["name=rootless"], []),
    ],
)
def test_only_guards_that_the_engine_has_are_put_off(options: list[str], found: list[str]) -> None:
    assert guards(options) == found
