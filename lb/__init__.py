"""The load balancer: one process with one event loop, HTTP/1.1 on both sides.

If the data path has been compiled from exactly these sources (`python -m lb.build`), its compiled modules are imported.
"""

from lb.system.compiled import prefer_compiled

prefer_compiled(__path__)
