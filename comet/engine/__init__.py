"""Access to the Docker engine through a UNIX socket or ssh.

It finds the engine, connects to it, gives its errors in one line, and decodes its logs and exit states.
"""
