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

compiling=
trap 'if [ -n "$compiling" ]; then kill -- "-$compiling" 2>/dev/null || true; fi' EXIT
end_on_signals
ensure_venv none
if ! is_compiled || [ -e "$UNTRANSLATED" ]; then
  # In a process group of its own, so that it can be ended with all that it started, however this script ends.
  set -m
  ensure_compiled </dev/null &
  compiling=$!
  set +m
fi
if needs_engine "$@"; then
  ensure_engine "$@"
  # While the compiler takes one core, the image can have the other.
  if [ -n "$compiling" ]; then prepare_image; fi
fi
if [ -n "$compiling" ]; then wait "$compiling" || true; fi
exec "$VENV/bin/python" "$ROOT/supervisor.py" "$@"
