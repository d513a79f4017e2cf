"""Provides values and text without side effects.

It holds errors, time as text, checks of what people and programs write, YAML with line numbers, and redaction.
"""
