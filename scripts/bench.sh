#!/usr/bin/env bash
# Benches: scripts/bench.sh [MODE] [options]; scripts/bench.sh --help lists the modes.
#
# Installs what a mode needs from the distribution where it is missing (root or passwordless sudo), and says so. All load goes to
# 127.0.0.1, every mode ends by itself, prints tables and writes JSON, pictures (PNG, SVG) and an HTML page into .comet/bench/ of the folder it is about.
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
# shellcheck source=scripts/lib/tools.sh
. "$here/lib/tools.sh"
# shellcheck source=scripts/lib/swarm.sh
. "$here/lib/swarm.sh"

# The tools lie in sbin on Debian, which is not in an ordinary user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

mode=load config=config.yaml runtime=
case ${1:-} in
  -h | --help) mode=help ;;
  '' | -*) ;;
  *) mode=$1 ;;
esac
previous=
for word in "$@"; do
  case $word in
    -h | --help) mode=help ;;
    --no-docker) runtime=process ;;
    --runtime=*) runtime=${word#*=} ;;
    --config=*) config=${word#*=} ;;
  esac
  case $previous in
    --runtime) runtime=$word ;;
    --config) config=$word ;;
  esac
  previous=$word
done

ensure_venv bench
ensure_compiled
case $mode in
  lb | all) need nginx haproxy wrk rsvg-convert ;;
  features) need haproxy ;;
  load) need wrk rsvg-convert ;;
  recovery | chaos) need rsvg-convert ;;
esac
case $mode in swarm | all) ensure_swarm_tools "a swarm of this machine's own" ;; esac
if [ "$mode" = load ] && [ -z "$runtime" ]; then
  [ -e "$config" ] || config=$ROOT/config.yaml
  runtime=$(runtime_of "$config")
fi
case $mode in
  load | recovery | chaos | swarm | all) if [ "$runtime" != process ]; then ensure_engine "$@"; fi ;;
esac
exec env PYTHONPATH="$ROOT" "$VENV/bin/python" -m scripts.bench "$@"
