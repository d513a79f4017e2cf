"""Reads config.yaml: the table of keys, fault settings, database URLs, and replica counts set by command."""
