"""Replicas that are tasks of a Swarm service."""
