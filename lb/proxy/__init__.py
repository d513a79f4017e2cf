"""A request on its way: client connection, choice of the upstream, upstream connection, retries, tunnels, accounts."""

from lb.system.compiled import prefer_compiled

prefer_compiled(__path__)
