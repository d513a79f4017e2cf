"""What is put around a program in other sandboxes than the engine's."""

import pytest

from comet.compare.layers.start import SANDBOXES, sandboxed


@pytest.mark.parametrize("name", SANDBOXES)
def test_a_sandbox_leaves_the_root_file_system_as_it_is(name: str) -> None:
    argv = sandboxed(name, "/the/root", "/a/folder")
    assert SANDBOXES[name] in argv
    assert {"--ro-bind", "--read-only", "/the/root:O"} & set(argv)


def test_podman_has_storage_and_state_of_its_own_and_no_network() -> None:
    argv = sandboxed("podman", "/the/root", "/a/folder")
    assert {"--root=/a/folder", "--network=none", "--mount", "--pid"} <= set(argv)
