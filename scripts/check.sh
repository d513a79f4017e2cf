#!/usr/bin/env bash
# What a machine can say about the code without running it: ruff's rules and format, mypy --strict, and the audits of lib/audits.sh.
#
# The settings of ruff are in ruff.toml, those of mypy in setup.cfg, where editors find them. (What must not import what is a test:
# tests/test_architecture.py.)
set -euo pipefail

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=scripts/lib/common.sh
. "$here/lib/common.sh"
# shellcheck source=scripts/lib/venv.sh
. "$here/lib/venv.sh"
# shellcheck source=scripts/lib/audits.sh
. "$here/lib/audits.sh"

ensure_venv test
cd -- "$ROOT"

paths=(supervisor.py setup.py comet fault_rules lb worker_app docker scripts tests)

# The slow ones run meanwhile; what they say comes in one piece each.
reports=$(mktemp -d)
trap 'rm -rf -- "$reports"' EXIT
jobs=()
for audit in audit_imports audit_use audit_safety; do
  "$audit" >"$reports/$audit" 2>&1 &
  jobs+=($!)
done

status=0
"$VENV/bin/ruff" check --quiet "${paths[@]}" || status=1
"$VENV/bin/ruff" format --check --quiet "${paths[@]}" ||
  { say "ruff would format these files otherwise; mend with: .venv/bin/ruff format FILE…" && status=1; }
"$VENV/bin/mypy" || status=1
for job in "${jobs[@]}"; do
  wait "$job" || { status=1 && touch "$reports/failed"; }
done
if [ -e "$reports/failed" ]; then cat -- "$reports"/audit_*; fi
exit "$status"
