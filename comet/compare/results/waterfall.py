"""A start as a waterfall: what each layer adds, for each kind, from medians over the rounds. Pure."""

from statistics import median

from comet.compare.results.findings import Findings, Kind

SECTION = "start, layer by layer"

EMPTY = "an empty program: fork and exec"
NAMESPACES = "… and a network namespace"
RUNC = "an empty program by runc alone"
ENGINE = "an empty program by the engine, host's network"
NO_NETWORK = "an empty program by the engine, no network"
BRIDGE = "an empty program by the engine, bridge network"
INTERPRETER = "the interpreter, which does nothing"
IMPORTS = "the interpreter with the worker's imports"
READY = ("life", "cold start to ready")

LAYERS: dict[Kind, tuple[tuple[str, tuple[str, str], Kind], ...]] = {
    "process": (
        ("program", (SECTION, EMPTY), "process"),
        ("interpreter", (SECTION, INTERPRETER), "process"),
        ("imports", (SECTION, IMPORTS), "process"),
        ("ready", READY, "process"),
    ),
    "container": (
        ("program", (SECTION, EMPTY), "process"),
        ("namespaces", (SECTION, NAMESPACES), "process"),
        ("runc", (SECTION, RUNC), "container"),
        ("engine", (SECTION, ENGINE), "container"),
        ("network", (SECTION, BRIDGE), "container"),
        ("interpreter", (SECTION, INTERPRETER), "container"),
        ("imports", (SECTION, IMPORTS), "container"),
        ("ready", READY, "container"),
    ),
}
"""For each kind its layers in order: the name, and the measure of the whole time up to and with that layer."""

NAMES = tuple(dict.fromkeys(name for name, _, _ in LAYERS["container"]))


def waterfall(findings: Findings, kind: Kind) -> dict[str, float]:
    """Return the time at which each layer of a start is done, in ms; layers that were not measured are missing.

    No layer ends before the one below it: where the noise is larger than a layer, that takes no time.
    """
    found: dict[str, float] = {}
    for name, (section, measure), way in LAYERS[kind]:
        listed = next((each for each in findings.measures if (each.section, each.name) == (section, measure)), None)
        known = [value for value in (listed.values.get(way, []) if listed is not None else []) if value is not None]
        if known:
            found[name] = max([median(known), *found.values()])
    return found


def added(at: dict[str, float]) -> dict[str, float]:
    """Return what each layer of a waterfall adds, in ms."""
    before = [0.0, *at.values()]
    return {name: end - begin for (name, end), begin in zip(at.items(), before, strict=False)}
