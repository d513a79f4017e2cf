"""Finds the packages that Comet needs and those that are missing, from its installed metadata."""

import re
from importlib import metadata

DISTRIBUTION = "comet-cluster"


def missing_packages() -> list[str]:
    """Return the packages needed by Comet, directly or indirectly, that are not installed.

    Return an empty list where Comet itself is not installed. The function reads the installed metadata (some 10 ms),
    so only a start and scripts/up.sh call it.
    """
    return sorted(name for name, there in needed_packages().items() if not there and name != DISTRIBUTION)


def needed_packages() -> dict[str, bool]:
    """Return every needed package by its normalized name, and whether it is installed.

    A package needed under a condition does not count, except one of a requested extra.
    """
    found: dict[str, bool] = {}
    left = [DISTRIBUTION]
    while left:
        name, _, extras = left.pop().partition("[")
        if (key := re.sub(r"[-_.]+", "-", name).lower()) in found:
            continue
        try:
            required = _requirements(metadata.distribution(name))
            found[key] = True
        except metadata.PackageNotFoundError:
            found[key] = False
            continue
        wanted = [f'extra == "{extra}"' for extra in re.findall(r"[\w.-]+", extras)]
        for line in required:
            requirement, _, condition = line.partition(";")
            if not condition or any(extra in condition.replace("'", '"') for extra in wanted):
                left += re.findall(r"^[\w.-]+(?:\[[^\]]*\])?", requirement.strip())
    return found


def _requirements(distribution: metadata.Distribution) -> list[str]:
    """Return the lines that say what a package requires.

    `Distribution.requires` parses the package's whole description as a mail, which takes four times as long.
    """
    text = distribution.read_text("METADATA")
    if text is None:  # Not a wheel: an egg.
        return distribution.requires or []
    fields = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return [value.strip() for name, _, value in fields if name.lower() == "requires-dist"]
