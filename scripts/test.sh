#!/usr/bin/env bash
# All checks and tests: scripts/test.sh [--full] [--unit | --process | --docker | --swarm | --security | --page | --bench] [pytest arguments]
#
#   --full      also the tests that take long (tests/full_only.txt), and where a promise names large counts, those instead of small ones
#               (COMET_TEST_FULL=1)
#   --unit      only the pure tests (tests/unit) that are quick: no Docker engine, no processes; some 10 s on two cores
#   --process   only tests of processes (tests/process) that need no Docker engine
#   --docker    only tests that need a Docker engine, but for those in a swarm
#   --swarm, --security, --page, --bench   only those of that folder
#
# With one of these there are no checks. A path of tests as an argument runs those alone, also those that take long.
#
# Sets up what up.sh sets up, with the test tools. The last line is `N passed, N failed, N skipped`. A skipped test counts as a
# failure: a suite that leaves out its Docker tests in silence has tested nothing. COMET_TEST_JOBS says how many files of tests run at a
# time (4; of the pure tests as many as there are processors, where no pytest arguments are given).
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

given=("$@") tier='' quick=' and not full'
while [ "$#" -gt 0 ]; do
  case $1 in
    --full)
      export COMET_TEST_FULL=1
      quick=''
      ;;
    --unit | --process | --docker | --swarm | --security | --page | --bench) tier=${1#--} ;;
    *) break ;;
  esac
  shift
done

# The tests start thousands of interpreters: each would compile its modules again.
unset PYTHONDONTWRITEBYTECODE
given_pytest=$*
ensure_venv test
ensure_compiled
cd -- "$ROOT"
work=$(mktemp -d)
folders=$work
trap 'rm -rf -- "$work" "$folders"' EXIT

checks=0 tests=0
case $tier in
  '') ;;
  unit) ;;
  process) set -- -m "process and not docker$quick" "$@" ;;
  docker) set -- -m "docker and not swarm$quick" "$@" ;;
  *) set -- -m "$tier$quick" "$@" ;;
esac
# Plugins that only slow tests use, or none, cost more than the pure tests do.
pure=(-m unit -p no:schemathesis -p no:anyio -p no:xdist -p no:logging -p no:doctest -p no:unittest)
if [ "$tier" != unit ]; then
  if [ "$tier" != process ]; then ensure_engine "${given[@]}"; fi
  case $tier in '' | page) ensure_browser ;; esac
  case $tier in '' | swarm) ensure_swarm_tools "several machines are tested with it" sshd ;; esac
  case $tier in '' | docker) ensure_engine_kinds "clusters are tested on them" ;; esac
  ensure_prometheus
  need wrk rsvg-convert nginx haproxy
  ensure_postgres "the statistics are tested with it"
  # Most tests wait for processes and containers rather than compute: several files at a time, each as a whole in one process.
  set -- -n "${COMET_TEST_JOBS:-4}" --dist loadfile --no-loadscope-reorder "$@"
fi
if [ -z "$tier" ]; then scripts/check.sh || checks=$?; fi

# run_pytest NAME [ARGUMENT ...]: its report is NAME.xml. A test that hangs shows where, in place of a silent log.
run_pytest() {
  "$VENV/bin/python" -m pytest --junit-xml="$work/$1.xml" -o faulthandler_timeout=300 "${@:2}"
}

# run_pure NAME [ARGUMENT ...]: the same for pure tests. pytest's watch costs a thread for each test, a twentieth of their time: the limit
# is for all of them together, and pytest answers ABRT with where each thread is.
run_pure() {
  timeout --foreground -s ABRT 300 "$VENV/bin/python" -m pytest "${pure[@]}" --junit-xml="$work/$1.xml" "${@:2}"
}

# run_lane NUMBER [ARGUMENT ...]: the files of one process, with ports that no other uses.
run_lane() {
  local first=$((10000 + 900 * ($1 % 16)))
  COMET_TEST_PORTS=${COMET_TEST_PORTS:-$first-$((first + 899))} run_pure "$1" -p no:cacheprovider --basetemp="$folders/$1" "${@:2}" $(<"$work/$1.files")
}

# Each file in one of as many processes as there are processors: neighbors together, as they import the same modules. To hand tests out as
# pytest-xdist does takes as much CPU time as half of these tests. Their many small files lie in memory where that is possible.
run_pure_tests() {
  local jobs=${COMET_TEST_JOBS:-$(nproc)} job memory=/dev/shm
  if [ -w "$memory" ]; then folders=$(mktemp -d "$memory/comet-tests.XXXXXXXX"); fi
  find tests/test_*.py tests/unit -name 'test_*.py' -printf '%d %s %p\n' | sort -k 1,1n -k 3,3 | awk -v jobs="$jobs" -v work="$work" '
    { slow = 0
      while ((getline line <$3) > 0) slow += line ~ /^pytestmark = .*mark\.slow/
      close($3)
      if (slow) next
      total += weight[NR] = $2
      path[NR] = $3 }
    END { for (each = 1; each <= NR; each++) if (each in path) {
        print path[each] >work "/" int(done * jobs / total) ".files"
        done += weight[each] } }'
  for ((job = jobs - 1; job > 0; job--)); do
    if [ -s "$work/$job.files" ]; then run_lane "$job" >"$work/$job.out" 2>&1 & fi
  done
  run_lane 0 || tests=$?
  for ((job = 1; job < jobs; job++)); do
    if [ ! -s "$work/$job.files" ]; then continue; fi
    wait -n || tests=$?
  done
  cat -- "$work"/*.out
}

if [ -n "$given_pytest" ]; then
  if [ "$tier" = unit ]; then run_pure all "$@" || tests=$?; else run_pytest all "$@" || tests=$?; fi
else
  case $tier in '' | unit) run_pure_tests ;; esac
  case $tier in
    '') run_pytest all -m "not unit$quick" "$@" || tests=$? ;;
    unit) ;;
    *) run_pytest all "$@" || tests=$? ;;
  esac
fi
"$VENV/bin/python" scripts/lib/tally.py "$tests" "$checks" "$work"/*.xml
