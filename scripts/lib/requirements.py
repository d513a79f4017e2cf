"""Writes what setup.cfg declares as requirement files, for tools that do not read setup.cfg: `python requirements.py
FOLDER`.

Writes FOLDER/run.txt (what the program needs, including what compiles its data path and exports spans) and
FOLDER/dev.txt (what its tests and benches need).
"""

import configparser
import sys
from pathlib import Path


def main() -> int:
    folder = Path(sys.argv[1])
    parser = configparser.ConfigParser()
    parser.read(Path(__file__).resolve().parents[2] / "setup.cfg")
    extras = parser["options.extras_require"]
    (folder / "run.txt").write_text(parser["options"]["install_requires"] + extras["compiled"] + extras["tracing"])
    (folder / "dev.txt").write_text(extras["bench"] + extras["test"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
