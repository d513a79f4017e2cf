"""Exports the spans that load balancers measure to an OpenTelemetry collector."""

SOCKET = "spans.sock"
"""The socket in `.comet/run/` to which load balancers send what they measured."""
