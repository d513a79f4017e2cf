"""Manages the cluster's folder `.comet/`: its lock, secrets, control socket and owner."""
