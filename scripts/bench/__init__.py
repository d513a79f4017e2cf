"""Load tests with one harness and one report format: see `scripts/bench.sh --help`.

Layers, lowest first: `stats`, `table`, `chart`, `ledger` are pure; `report` builds and writes a result; `machine`,
`proc`, `wrk`, `strict`, `cluster` use the system; each mode has a module that uses all of these. The product imports
nothing from here.
"""
