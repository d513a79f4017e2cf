"""Finds the packages that Comet needs and those that are missing, from its installed metadata."""

import re
from importlib import metadata

DISTRIBUTION = "comet-cluster"


def missing_packages() -> list[str]:
    """Return the packages needed by Comet, directly or indirectly, that are not installed.

    Return an empty list where Comet itself is not installed. The function reads the installed metadata (about 20 ms),
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
            required = metadata.requires(name) or []
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
