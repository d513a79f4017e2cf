"""Keeps the state file in step with the replicas of one running cluster."""

from collections.abc import Callable, Mapping

from comet.common.errors import os_error_text
from comet.events.event import Event
from comet.reconcile.replica import Replica
from comet.runtimes.interface import SingleRuntime
from comet.runtimes.replica_records import Record, StateFile
from comet.state.directory import Cluster
from comet.telemetry.snapshot import last_exit


class StateWriter:
    """Writes a record of each of `replicas`; `runtime_of` returns a replica's runtime."""

    def __init__(
        self,
        cluster: Cluster,
        replicas: Callable[[], Mapping[str, Replica]],
        runtime_of: Callable[[Replica], SingleRuntime],
        notify: Callable[[Event], None],
    ) -> None:
        self._cluster = cluster
        self._replicas = replicas
        self._runtime_of = runtime_of
        self._notify = notify
        self._unwritable = False
        self.file = StateFile(cluster.path("state.json"))
        self.enabled = False
        """Whether this supervisor may write the state file.

        Until the takeover ends, the file holds what an earlier supervisor left.
        """

    def update(self) -> None:
        if self.enabled:
            self.write()

    def write(self) -> None:
        records = {name: self._record(replica) for name, replica in self._replicas().items()}
        try:
            self.file.write(records)
        except OSError as error:  # A full disk prevents a later adoption, but never stops this cluster.
            if not self._unwritable and self._cluster.displaced() is None:
                self._unwritable = True
                self._notify(Event("state_unwritable", None, {"reason": os_error_text(error)}))
        else:
            self._unwritable = False

    def _record(self, replica: Replica) -> Record:
        spec = replica.spec
        fields = {"create_time": None, "control": None, **self._runtime_of(replica).record(replica)}
        return Record(
            name=spec.name,
            role=spec.role,
            kind=spec.kind,
            driver=spec.driver,
            port=replica.endpoint.port if replica.endpoint is not None else spec.port,
            state=replica.state.value,
            instance=replica.instance,
            restarts=replica.restarts,
            pid=replica.pid,
            id=replica.id,
            fingerprint=getattr(spec.launch, "fingerprint", None),
            last_exit=last_exit(replica),
            **fields,
        )
