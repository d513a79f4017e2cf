#!/usr/bin/env bash
# All checks and all tests: scripts/test.sh [--full] [--unit | --process | --docker | --swarm | --security | --page | --bench] [pytest arguments]
#
#   --full      where a promise names large counts, run those instead of small ones (COMET_TEST_FULL=1)
#   --unit      only the pure tests (tests/unit): no Docker engine, no processes; some 20 s on two cores
#   --process   only tests of processes (tests/process) that need no Docker engine
#   --docker    only tests that need a Docker engine, but for those in a swarm
#   --swarm, --security, --page, --bench   only those of that folder
#
# With one of these there are no checks. A path of tests as an argument runs those alone.
#
# Sets up what up.sh sets up, with the test tools. The last line is `N passed, N failed, N skipped`. A skipped test counts as a
# failure: a suite that leaves out its Docker tests in silence has tested nothing. COMET_TEST_JOBS says how many files of tests run at a
# time (3; of the pure tests as many as there are processors).
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
# shellcheck source=scripts/lib/engine_kinds.sh
. "$here/lib/engine_kinds.sh"

given=("$@") tier=''
while [ "$#" -gt 0 ]; do
  case $1 in
    --full) export COMET_TEST_FULL=1 ;;
    --unit | --process | --docker | --swarm | --security | --page | --bench) tier=${1#--} ;;
    *) break ;;
  esac
  shift
done

# The tests start thousands of interpreters: each would compile its modules again.
unset PYTHONDONTWRITEBYTECODE
ensure_venv test
ensure_compiled
cd -- "$ROOT"
report=$(mktemp)
trap 'rm -f -- "$report"' EXIT

checks=0 tests=0
case $tier in
  '') ;;
  process) set -- -m 'process and not docker' "$@" ;;
  docker) set -- -m 'docker and not swarm' "$@" ;;
  *) set -- -m "$tier" "$@" ;;
esac
if [ "$tier" = unit ]; then
  # As many at a time as there are processors; plugins that only slow tests use cost more than these tests do.
  set -- -n "${COMET_TEST_JOBS:-$(nproc)}" --dist loadfile -p no:schemathesis -p no:anyio "$@"
else
  if [ "$tier" != process ]; then ensure_engine "${given[@]}"; fi
  case $tier in '' | page) ensure_browser ;; esac
  case $tier in '' | swarm) ensure_swarm_tools "several machines are tested with it" sshd ;; esac
  case $tier in '' | docker) ensure_engine_kinds "clusters are tested on them" ;; esac
  ensure_prometheus
  need wrk rsvg-convert nginx haproxy
  ensure_postgres "the statistics are tested with it"
  # Most tests wait for processes and containers rather than compute: several files at a time, each as a whole in one process, those that
  # last longest first.
  set -- -n "${COMET_TEST_JOBS:-3}" --dist loadfile --no-loadscope-reorder "$@"
fi
if [ -z "$tier" ]; then scripts/check.sh || checks=$?; fi

# A test that hangs shows where, in place of a silent log.
"$VENV/bin/python" -m pytest --junit-xml="$report" -o faulthandler_timeout=300 "$@" || tests=$?
"$VENV/bin/python" scripts/lib/tally.py "$report" "$tests" "$checks"
