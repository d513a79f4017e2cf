"""Reads files that a user names on the command line.

They are read with the user's own rights, so links are followed. A path may lead to anything, so opening never blocks (a
pipe without a writer), and the size that is read is limited.
"""

import os
import stat
from pathlib import Path

from comet.common.yaml_lines import MAX_BYTES, ConfigError


def content_of(path: Path, missing: str) -> bytes:
    """Return the content of a file, cut a little above the size limit of `comet.common.yaml_lines`.

    Raise ConfigError if the file does not exist, with the advice `missing`, or cannot be read.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError([f"{path}: is no regular file (name the file itself)"])
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        if not path.absolute().parent.exists():
            raise ConfigError(
                [f"{path.absolute().parent}: there is no such folder (was it renamed or removed?)"]
            ) from None
        raise ConfigError([f"{path}: there is no such file ({missing})"]) from None
    except IsADirectoryError:
        raise ConfigError([f"{path}: is a directory (name the file itself)"]) from None
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"]) from None
