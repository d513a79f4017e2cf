"""Makes the event loop of a load balancer: uvloop's where it is installed, else asyncio's, which serves too, slower.

uvloop keeps each transport in a dictionary of weak references by its descriptor, so that nobody else adds a reader for
it. The dictionary of the standard library removes a reference when its transport is gone, which runs Python code at the
begin and at the end of each connection. `Transports` takes its place: a reference stays until its descriptor is
used again, so that there are never more than descriptors. An uvloop without such a dictionary is left as it is.
"""

import asyncio
import gc
from typing import Any
from weakref import WeakValueDictionary, ref

try:
    import uvloop
except ImportError:  # pragma: no cover - depends on the installation
    uvloop = None  # type: ignore[assignment]


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop of the fastest available kind."""
    if uvloop is None:
        return asyncio.new_event_loop()
    loop = uvloop.new_event_loop()
    for each in gc.get_referents(loop):
        if type(each) is WeakValueDictionary:
            each.__class__ = Transports
    return loop


class Transports(WeakValueDictionary[int, Any]):
    """Weak references to transports by descriptor."""

    data: "dict[int, ref[Any]]"

    def __setitem__(self, fd: int, transport: Any) -> None:
        self.data[fd] = ref(transport)
