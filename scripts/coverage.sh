#!/usr/bin/env bash
# Branches of a package that its tests run, other processes included: scripts/coverage.sh [PACKAGE] [pytest arguments]
#
# The package is lb (the default) or another with a folder in tests/; fails below 95 percent; lines and branches not reached are named.
# Processes that the tests start are counted. Load balancers that a supervisor forks are not: coverage does not follow a forkserver. So
# what only they run, the faults of `fault-point: lb` (lb/faults/injector.py, lb/faults/rules.py; tests/process, whole clusters), is left out of the sum.
set -euo pipefail

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=scripts/lib/common.sh
. "$here/lib/common.sh"
# shellcheck source=scripts/lib/venv.sh
. "$here/lib/venv.sh"

package=lb
case ${1:-} in
  '' | -*) ;;
  *)
    package=$1
    shift
    ;;
esac
[ -d "$ROOT/tests/$package" ] || die "no tests for $package: there is no tests/$package"

ensure_venv test
export COMET_LB=interpreted # Coverage sees no lines in compiled modules.
cd -- "$ROOT"
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
export COVERAGE_FILE=$folder/data

"$VENV/bin/python" -m coverage run -m pytest -q -m 'not docker' "tests/$package" "$@"
"$VENV/bin/python" -m coverage combine --quiet
"$VENV/bin/python" -m coverage report --include="$package/*" --omit=lb/faults/injector.py,lb/faults/rules.py --show-missing --skip-covered --fail-under=95
