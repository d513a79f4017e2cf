"""What a container is made of: where its start, system calls, disk, CPU time and network cost more.

`start` starts an empty program with ever more around it; `probes` runs one measuring program (`program`) as a process
and in a container like the worker's, and so does `network`, on an engine of its own (`own_engine`).
"""
