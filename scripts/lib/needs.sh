# Does this call of supervisor.py need a Docker engine? Asked before one is started or even installed.
#
# Only what starts workers does, and only where they are containers of this machine. Wrong arguments and a broken config need none either: the
# supervisor says what is wrong with them, and it should not take an installation to learn that.

# shellcheck shell=bash

needs_engine() {
  local command=run config='' seen=
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
  # As supervisor.py does: ./config.yaml, else the one next to it.
  if [ -z "$config" ]; then
    config=config.yaml
    [ -e "$config" ] || config=$ROOT/config.yaml
  fi
  # A swarm is nothing that could be installed by the way; its manager may be elsewhere.
  NEEDED_BY=$config
  runs_containers_here "$(runtime_of "$config")"
}

# prepare_image : the worker image for the config that needs_engine has looked at. Optional: the supervisor builds it, too, and says what
# is wrong.
prepare_image() {
  { "$VENV/bin/python" -P -m comet.images.worker_image "$NEEDED_BY" 2>&1 </dev/null || true; } | while read -r line; do say "$line"; done
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

# Whether a runtime runs containers on this machine's engine.
runs_containers_here() {
  "$VENV/bin/python" -I - "$1" "$ROOT" <<'PYTHON'
import sys

sys.path.insert(0, sys.argv[2])
from comet.config.runtimes import RUNTIMES

traits = RUNTIMES.get(sys.argv[1])
sys.exit(traits is None or not traits.uses_engine or traits.remote)
PYTHON
}
