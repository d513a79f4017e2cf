# Does this call of supervisor.py need a Docker engine? Asked before one is started or even installed.
#
# Only what starts workers does, and only where they are containers of this machine. Wrong arguments and a broken config need none either: the
# supervisor says what is wrong with them, and it should not take an installation to hear that.

# shellcheck shell=bash

needs_engine() {
  local command=run config=config.yaml seen=
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help | --version) return 1 ;;
      --config)
        config=${2:-}
        [ $# -ge 2 ] && shift
        ;;
      --config=*) config=${1#--config=} ;;
      -*) ;;
      *)
        if [ -z "$seen" ]; then command=$1; fi
        seen=yes
        ;;
    esac
    shift
  done
  case $command in
    run | compare | scenario) ;;
    *) return 1 ;;
  esac
  # A swarm is nothing that could be installed by the way; its manager may be elsewhere.
  [ "$(runtime_of "$config")" = docker ]
}

# The runtime that a config asks for; "process" also for one that cannot be read, so that nothing is installed for its sake.
runtime_of() {
  "$VENV/bin/python" -I - "$1" <<'PYTHON'
import sys

import yaml

try:
    with open(sys.argv[1], encoding="utf-8") as file:
        content = yaml.safe_load(file) or {}
    print(content.get("runtime") or "docker")
except (OSError, ValueError, AttributeError, yaml.YAMLError):
    print("process")
PYTHON
}
