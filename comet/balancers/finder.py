"""Finds and ends the load balancers of a cluster, which are processes."""

from comet.runtimes.cluster_processes import LB_DRIVER
from comet.runtimes.process.finder import ProcessFinder


class BalancerFinder(ProcessFinder):
    holds_front_port = True


FINDER = BalancerFinder(LB_DRIVER)
