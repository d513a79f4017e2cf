"""Scenario files: parsed, and played on a running cluster."""
