#!/usr/bin/env bash
# Which engines, users and Pythons a cluster was tried with: scripts/matrix.sh [PYTHON…]
#
# Runs the tests of every kind of engine (tests/docker/test_engine_kinds.py) with each of these interpreters, the one of .venv if
# none is named, and writes the outcome into docs/engines.md. Needs root; some minutes for each Python. With COMET_TEST_FULL=1 every engine
# builds the worker image itself.
set -euo pipefail

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=scripts/lib/common.sh
. "$here/lib/common.sh"
# shellcheck source=scripts/lib/venv.sh
. "$here/lib/venv.sh"
# shellcheck source=scripts/lib/engine.sh
. "$here/lib/engine.sh"
# shellcheck source=scripts/lib/engine_kinds.sh
. "$here/lib/engine_kinds.sh"
# shellcheck source=scripts/lib/postgres.sh
. "$here/lib/postgres.sh"

ensure_venv test
ensure_compiled
ensure_engine "$@"
ensure_engine_kinds "clusters are tried on them"
ensure_postgres "the statistics are tried with it"
cd -- "$ROOT"
exec "$VENV/bin/python" -m scripts.matrix "$@"
