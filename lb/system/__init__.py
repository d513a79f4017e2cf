"""Sockets, files, log and errors of the operating system, as a load balancer uses them."""
