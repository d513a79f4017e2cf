"""HTTP/1.1 heads and bodies: read, refused, written; no connection."""

from lb.system.compiled import prefer_compiled

prefer_compiled(__path__)
