"""The choice of an upstream: what is known of each, the policies, and which are ejected for their answers."""

from lb.system.compiled import prefer_compiled

prefer_compiled(__path__)
