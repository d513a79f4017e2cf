#!/usr/bin/env bash
# All checks and all tests: scripts/test.sh [--full | --unit] [pytest arguments]
#
#   --full   where a promise names large counts, run those instead of small ones (COMET_TEST_FULL=1)
#   --unit   only the pure tests: no checks, no Docker engine, no processes; under ten seconds
#
# Sets up what up.sh sets up, with the test tools. The last line is `N passed, N failed, N skipped`. A skipped test counts as a
# failure: a suite that leaves out its Docker tests in silence has tested nothing. COMET_TEST_JOBS says how many files of tests run at a
# time (3).
set -euo pipefail

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=scripts/lib/common.sh
. "$here/lib/common.sh"
# shellcheck source=scripts/lib/venv.sh
. "$here/lib/venv.sh"
# shellcheck source=scripts/lib/engine.sh
. "$here/lib/engine.sh"
# shellcheck source=scripts/lib/browser.sh
. "$here/lib/browser.sh"
# shellcheck source=scripts/lib/prometheus.sh
. "$here/lib/prometheus.sh"
# shellcheck source=scripts/lib/tools.sh
. "$here/lib/tools.sh"
# shellcheck source=scripts/lib/postgres.sh
. "$here/lib/postgres.sh"
# shellcheck source=scripts/lib/swarm.sh
. "$here/lib/swarm.sh"

unit=
case ${1:-} in
  --full)
    export COMET_TEST_FULL=1
    shift
    ;;
  --unit)
    unit=yes
    shift
    ;;
esac

ensure_venv test
ensure_compiled
cd -- "$ROOT"
report=$(mktemp)
trap 'rm -f -- "$report"' EXIT

checks=0 tests=0
if [ -n "$unit" ]; then
  set -- -m 'not docker and not slow' "$@"
else
  ensure_engine "$@"
  ensure_browser
  ensure_prometheus
  need wrk rsvg-convert
  ensure_postgres "the statistics are tested with it"
  ensure_swarm_tools "several machines are tested with it" sshd
  scripts/check.sh || checks=$?
  # Most tests wait for processes and containers rather than compute: several files at a time, each as a whole in one process.
  set -- -n "${COMET_TEST_JOBS:-3}" --dist loadfile "$@"
fi

# A test that hangs shows where, in place of a silent log.
"$VENV/bin/python" -m pytest --junit-xml="$report" -o faulthandler_timeout=300 "$@" || tests=$?
"$VENV/bin/python" scripts/lib/tally.py "$report" "$tests" "$checks"
