"""The runtimes that `runtime:` may name, each declared by one line here and a folder `comet/runtimes/NAME`. Pure.

The config's checks ask these facts, never a name.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RuntimeTraits:
    """What the config must know of a runtime.

    `uses_engine`: its workers are containers, or some of them are, and the keys for containers apply. `remote`: they
    run on other machines, too, which choose their ports and cannot read this machine's files. `custom_service`: they
    may be a service of the user. `supervised`: Comet starts and stops them; others are what `upstreams` names.
    """

    uses_engine: bool = True
    remote: bool = False
    custom_service: bool = True
    supervised: bool = True


RUNTIMES = {
    "docker": RuntimeTraits(),
    "process": RuntimeTraits(uses_engine=False),
    "swarm": RuntimeTraits(remote=True),
    "mixed": RuntimeTraits(custom_service=False),
    "external": RuntimeTraits(uses_engine=False, remote=True, supervised=False),
}
