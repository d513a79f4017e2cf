"""Runs the span exporter: python -m comet.tracing CLUSTER ENDPOINT SPANS OWNER (two inherited descriptors).

It reads datagrams of measured exchanges from SPANS and sends their spans to the collector, by OTLP over HTTP. A
collector that cannot be reached costs spans and nothing else: the SDK's queue is bounded, and drops what it cannot
keep. Only the supervisor starts it. It ends when OWNER closes, which happens when the supervisor dies for whatever
reason.
"""

import logging
import os
import select
import signal
import socket
import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from setproctitle import setproctitle

from comet import __version__
from comet.host.process_setup import prepare_process
from comet.tracing.spans import MeasuredSpan, read

MAX_DATAGRAM = 1 << 18
DELAY_MS = 1000
"""Milliseconds for which spans are collected before they are sent."""

QUEUE = 16384
"""Spans that wait for the collector at most; more are lost."""

TIMEOUT = 5.0
"""Seconds for a request to the collector, and for the last spans at the end."""

NICENESS = 10
"""The nice value: where CPU is scarce, the data path goes first."""


class GivenIds(IdGenerator):
    """Gives the next span the ids that the load balancer has already announced to the worker."""

    trace = 0
    span = 0

    def generate_trace_id(self) -> int:
        return self.trace

    def generate_span_id(self) -> int:
        return self.span


class Exporter:
    """Records measured spans with the SDK's tracer."""

    def __init__(self, provider: TracerProvider, ids: GivenIds) -> None:
        self._tracer = provider.get_tracer("comet", __version__)
        self._ids = ids

    def record(self, span: MeasuredSpan) -> None:
        self._ids.trace, self._ids.span = span.trace, span.id
        parent = None
        if span.parent:
            context = SpanContext(span.trace, span.parent, True, TraceFlags(TraceFlags.SAMPLED))
            parent = trace.set_span_in_context(NonRecordingSpan(context))
        kind = SpanKind.SERVER if span.is_server else SpanKind.CLIENT
        made = self._tracer.start_span(span.name, parent, kind, dict(span.attributes), start_time=span.start)
        if span.failed:
            made.set_status(Status(StatusCode.ERROR))
        made.end(span.end)


def main() -> None:
    prepare_process()
    cluster, endpoint, spans_fd, owner_fd = sys.argv[1:]
    os.nice(NICENESS)
    setproctitle(f"comet: span exporter to {endpoint}")
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    ids = GivenIds()
    resource = Resource.create({"service.name": "comet", "service.version": __version__, "comet.cluster": cluster})
    provider = TracerProvider(ALWAYS_ON, resource, id_generator=ids, shutdown_on_exit=False)
    collector = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=TIMEOUT)
    provider.add_span_processor(BatchSpanProcessor(collector, QUEUE, DELAY_MS))
    exporter = Exporter(provider, ids)
    follow(socket.socket(fileno=int(spans_fd)), int(owner_fd), exporter)
    provider.force_flush(int(TIMEOUT * 1000))


def follow(spans: socket.socket, owner: int, exporter: Exporter) -> None:
    """Record what arrives until the owner has closed its end."""
    poll = select.poll()
    poll.register(spans, select.POLLIN)
    poll.register(owner, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if spans.fileno() in ready:
            for span in read(spans.recv(MAX_DATAGRAM)):
                exporter.record(span)
        elif owner in ready:
            return


if __name__ == "__main__":
    main()
