#!/usr/bin/env bash
# An example service behind Comet, in one command: scripts/example.sh NAME [supervisor.py arguments]
#
# NAME is a folder of examples/, or the path of a copy of one (with a slash in it). Its `prepare` gets what the service needs, none of it
# into the system: from Debian's packages or PyPI, once, into the folder itself or the Docker engine. Then this becomes
# `scripts/up.sh ARGUMENTS --config THAT FOLDER/config.yaml`; so `scripts/example.sh nginx ps` lists the example's cluster.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=scripts/lib/common.sh
. "$here/lib/common.sh"
# shellcheck source=scripts/lib/venv.sh
. "$here/lib/venv.sh"
# shellcheck source=scripts/lib/engine.sh
. "$here/lib/engine.sh"
# shellcheck source=scripts/lib/needs.sh
. "$here/lib/needs.sh"
# shellcheck source=scripts/lib/packages.sh
. "$here/lib/packages.sh"

given=("$@")
names=$(cd -- "$ROOT/examples" && printf '%s ' */prepare.sh)
usage="scripts/example.sh NAME [supervisor.py arguments], with NAME one of: ${names//\/prepare.sh/}"

case ${1:-} in
  '' | -h | --help)
    say "$usage"
    [ -n "${1:-}" ] && exit 0
    exit 2
    ;;
  */*) folder=$1 ;;
  *) folder=$ROOT/examples/$1 ;;
esac
if [ ! -f "$folder/prepare.sh" ] || [ ! -f "$folder/config.yaml" ]; then
  say "there is no example $1; $usage"
  exit 2
fi
folder=$(cd -- "$folder" && pwd -P)
shift

# Only what starts the service needs it; `stop` or `ps` must not install anything.
starts_workers() {
  local word
  for word in "$@"; do
    case $word in
      -h | --help | --version) return 1 ;;
      -*) ;;
      *)
        [ "$word" = run ]
        return
        ;;
    esac
  done
}

if starts_workers "$@"; then
  ensure_venv none
  if needs_engine --config "$folder/config.yaml"; then ensure_engine "${given[@]}"; fi
  cd -- "$folder"
  # shellcheck source=/dev/null
  . ./prepare.sh
fi
exec "$here/up.sh" "$@" --config "$folder/config.yaml"
