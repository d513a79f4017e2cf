"""Load tests with one harness and one way to report: see `scripts/bench.sh --help`.

Layers, lowest first: `stats`, `table`, `chart`, `ledger` are pure; `report` puts a result together and writes it; `machine`, `proc`,
`wrk`, `strict`, `cluster` touch the system; one module per mode uses all of these. Nothing here is imported by the product.
"""
