#!/usr/bin/env bash
# What a machine can say about the code without running it: ruff's rules and format, mypy --strict.
#
# ruff does not read setup.cfg, so its settings stand here. (What must not import what is a test: tests/test_architecture.py.)
set -euo pipefail

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=scripts/lib/common.sh
. "$here/lib/common.sh"
# shellcheck source=scripts/lib/venv.sh
. "$here/lib/venv.sh"

ensure_venv test
cd -- "$ROOT"

paths=(supervisor.py setup.py comet lb worker_app docker scripts tests)
rules=E,F,W,I,B,UP,SIM,RUF,PT,C4,PIE,PERF,RET
options=(--isolated --line-length 140 --target-version py311)
# The folder docker/ beside the code is not the package of that name.
imports="lint.isort.known-third-party = ['docker']"

status=0
"$VENV/bin/ruff" check "${options[@]}" --select "$rules" --config "$imports" "${paths[@]}" || status=1
"$VENV/bin/ruff" format --check --quiet "${options[@]}" "${paths[@]}" ||
  { say "ruff would format these files otherwise; mend with: .venv/bin/ruff format ${options[*]} FILE…" && status=1; }
"$VENV/bin/mypy" --strict supervisor.py comet lb worker_app || status=1
exit "$status"
