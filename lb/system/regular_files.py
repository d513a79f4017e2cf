"""Opens the files that supervisor and load balancers share, and refuses anything but a regular file.

A FIFO in the place of the file would block the load balancer forever, and a link could lead to any file. A hard link is
the content of another file.
"""

import os
import stat
from typing import Final

_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def opened(path: str | os.PathLike[str], flags: int) -> int:
    """Return a descriptor of a regular file, created with mode 0600 if `flags` say so; raise OSError otherwise."""
    file = os.open(path, flags | _FLAGS, 0o600)
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(file)
        raise OSError(f"{path}: not a regular file with one name")
    return file
