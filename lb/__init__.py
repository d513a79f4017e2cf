"""A load balancer: one process, one loop, HTTP/1.1 in and out.

Where the data path has been compiled from these very sources (`python -m lb.build`), the compiled modules are imported in their place.
"""

from lb.compiled import use

use(__path__)
