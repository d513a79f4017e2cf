"""Replicas that are containers of this machine's engine."""
