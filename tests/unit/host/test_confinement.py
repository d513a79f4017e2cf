"""What a worker that is an OS process may reach of the host: as root's, and as an ordinary user's.

The attacker is the service itself: it is asked over HTTP to read files, to look around and to signal others, and says
what came of it.
"""

import os
from pathlib import Path

import pytest

from comet.host import confinement
from comet.state.directory import WORKER_UID, Owner
from tests.support.cluster import open_folder

# What its user cannot reach


def closed(folder: Path) -> Path:
    made = folder / "closed"
    made.mkdir(mode=0o700, exist_ok=True)
    return made


# Paths, without a cluster


def test_a_path_is_walked_as_the_kernel_does(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "one").symlink_to("real")
    (tmp_path / "two").symlink_to(tmp_path / "one/../real")
    (tmp_path / "loop").symlink_to("loop")
    walked = confinement.trail(f"{tmp_path}/two/./deep/")
    assert walked.end == str(tmp_path.resolve() / "real/deep")
    assert [place for place, _ in walked.links] == [str(tmp_path / "two"), str(tmp_path / "one")]
    with pytest.raises(OSError, match="too many symbolic links"):
        confinement.trail(str(tmp_path / "loop"))
    with pytest.raises(FileNotFoundError):
        confinement.trail(str(tmp_path / "missing"))


def test_what_keeps_a_user_from_a_file_is_found() -> None:
    """Whose modes count: the owner's for the owner alone, even where others may more."""
    with open_folder() as folder:
        me, other = Owner(os.getuid() or WORKER_UID, WORKER_UID), Owner(4711, 4711)
        file = folder / "file"
        file.touch()
        file.chmod(0o604)
        if os.getuid() == 0:
            os.chown(file, WORKER_UID, WORKER_UID)
        assert confinement.obstacle(str(file), other, confinement.READ) is None
        assert confinement.obstacle(str(file), other, confinement.EXECUTE) == str(file)
        assert confinement.obstacle(str(file), me, confinement.READ) is None
        file.chmod(0o004)
        assert confinement.obstacle(str(file), other, confinement.READ) is None
        assert confinement.obstacle(str(file), me, confinement.READ) == str(file)
        closed(folder)
        assert confinement.obstacle(str(closed(folder)), other, confinement.EXECUTE) == str(folder / "closed")
