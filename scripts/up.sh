#!/usr/bin/env bash
# Everything from a fresh clone to a running cluster: scripts/up.sh [supervisor.py arguments]
#
# Makes .venv and installs the project, makes sure that a Docker engine answers where the command needs one, then becomes
# `python supervisor.py` with the same arguments. Run again it finds all of that done and costs a fraction of a second.
set -euo pipefail

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=scripts/lib/common.sh
. "$here/lib/common.sh"
# shellcheck source=scripts/lib/venv.sh
. "$here/lib/venv.sh"
# shellcheck source=scripts/lib/engine.sh
. "$here/lib/engine.sh"
# shellcheck source=scripts/lib/needs.sh
. "$here/lib/needs.sh"

ensure_venv none
ensure_compiled &
compiling=$!
if needs_engine "$@"; then ensure_engine "$@"; fi
wait "$compiling"
exec "$VENV/bin/python" "$ROOT/supervisor.py" "$@"
