"""Manages the statistics database for the control plane.

It covers where the database is, how workers reach it, and which process keeps it locked.
"""
