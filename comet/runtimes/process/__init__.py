"""Replicas that are OS processes."""
