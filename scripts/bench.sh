#!/usr/bin/env bash
# Benches: scripts/bench.sh [MODE] [options]; scripts/bench.sh --help lists the modes.
#
# Installs what a mode needs from the distribution where it is missing (root or passwordless sudo), and says so. All load goes to
# 127.0.0.1, every mode ends by itself, prints tables and writes JSON and a picture into .comet/bench/.
set -euo pipefail

here=$(dirname -- "${BASH_SOURCE[0]}")
# shellcheck source=scripts/lib/common.sh
. "$here/lib/common.sh"
# shellcheck source=scripts/lib/venv.sh
. "$here/lib/venv.sh"
# shellcheck source=scripts/lib/engine.sh
. "$here/lib/engine.sh"
# shellcheck source=scripts/lib/postgres.sh
. "$here/lib/postgres.sh"
# shellcheck source=scripts/lib/swarm.sh
. "$here/lib/swarm.sh"

# The tools lie in sbin on Debian, which is not in an ordinary user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# need COMMAND… : each is there, or is installed from the package of that name.
need() {
  local missing=() tool
  for tool in "$@"; do command -v "$tool" >/dev/null || missing+=("$tool"); done
  if [ "${#missing[@]}" -eq 0 ]; then return; fi
  has_apt && can_be_root || die "needs ${missing[*]}: install them, or run as root or with passwordless sudo on a Debian or Ubuntu"
  # The distribution starts services as it installs them; what is there for a bench must not serve.
  apt_install "for this bench" "${missing[@]}" || die "could not install ${missing[*]}"
  for tool in "${missing[@]}"; do
    case $tool in nginx | haproxy) as_root service "$tool" stop >/dev/null 2>&1 || true ;; esac
  done
}

mode=load engine=yes
for word in "$@"; do
  case $word in
    -h | --help) mode=help && break ;;
    load | lb | idle | recovery | chaos | stats | inflight | swarm | page) mode=$word ;;
    process | --runtime=process | --no-docker) engine= ;;
  esac
done

ensure_venv none
ensure_compiled
case $mode in
  lb | idle) need nginx haproxy wrk ;;
  load | stats | inflight) need wrk ;;
esac
if [ "$mode" = stats ]; then ensure_postgres "one of the databases measured"; fi
case $mode in
  swarm) ensure_engine && ensure_swarm_tools "a swarm of this machine's own" ;;
  load | recovery | chaos) if [ -n "$engine" ]; then ensure_engine; fi ;;
esac
exec env PYTHONPATH="$ROOT" "$VENV/bin/python" -m scripts.bench "$@"
