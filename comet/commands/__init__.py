"""The commands, each declared once: command line, completion, control socket, HTTP API and documentation read it."""
