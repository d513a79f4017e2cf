"""Comet's control plane: who should be alive, who is, and what to do about it."""

__version__ = "0.1.0"
