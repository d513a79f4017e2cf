from comet.api.running_cluster import RunningCluster as RunningCluster
from comet.api.running_cluster import cluster as cluster
from comet.common.errors import UserError as UserError

__version__: str
