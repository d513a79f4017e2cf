"""Runs blocking work and cancelable waits next to an event loop."""
