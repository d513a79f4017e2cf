# A Docker engine that answers: found, else started, else installed and started.
#
# Only the system's own engine is ever installed or started. Where DOCKER_HOST or a docker context names another one, that one is the
# user's business, and its silence is reported. What comet/engine/connection.py says is what the supervisor will say: both ask by the same code.

# shellcheck shell=bash

ENGINE_LOG=/var/log/comet-dockerd.log
ENGINE_DEADLINE=${COMET_ENGINE_DEADLINE:-60} # seconds from the start of an engine to its first answer; 0.5 is usual
SYSTEM_SOCKET=/var/run/docker.sock
# Exit codes of comet.engine.connection
ABSENT=10 FORBIDDEN=11

# Sets ENGINE_SOCKET and ENGINE_ERROR (one line); the status is that of comet.engine.connection.
probe_engine() {
  local status=0 errors
  errors=$(mktemp)
  ENGINE_SOCKET=$(cd -- "$ROOT" && "$VENV/bin/python" -m comet.engine.connection 2>"$errors") || status=$?
  ENGINE_ERROR=$(cat -- "$errors")
  rm -f -- "$errors"
  return "$status"
}

has_systemd() { [ -d /run/systemd/system ]; }
has_dockerd() { with_sbin command -v dockerd >/dev/null; }

# Debian's sysv script asks for more open files than a machine without CAP_SYS_RESOURCE may have, and fails on that alone.
# Its defaults file is sourced by the script, so a softer `ulimit` can be put there.
soften_ulimit() {
  local defaults=/etc/default/docker
  if as_root sh -c 'ulimit -Hn 1048576' 2>/dev/null || grep -qs '^ulimit()' "$defaults"; then return; fi
  say "telling $defaults that this machine's limit of open files cannot be raised"
  # shellcheck disable=SC2016
  printf '%s\n' '' '# The limit of open files cannot be raised on this machine: go on with the one there is.' \
    'ulimit() { command ulimit "$@" 2>/dev/null || true; }' | as_root tee -a "$defaults" >/dev/null
}

# The engine belongs to nobody's terminal: it outlives this script and its session. It ignores the hang-up before it gets a session of its
# own, as sudo may close its terminal in between.
start_dockerd() {
  say "starting dockerd (log: $ENGINE_LOG)"
  # shellcheck disable=SC2016
  as_root sh -c 'PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin exec nohup setsid --fork dockerd >>"$1" 2>&1 </dev/null' sh "$ENGINE_LOG"
}

start_engine() {
  if has_systemd; then
    say "starting the Docker engine (systemctl start docker)"
    run_logged "systemctl start docker" as_root systemctl start docker
  elif [ -x /etc/init.d/docker ] && with_sbin command -v service >/dev/null; then
    soften_ulimit
    say "starting the Docker engine (service docker start)"
    run_logged "service docker start" with_sbin as_root service docker start || start_dockerd
  else
    start_dockerd
  fi
}

# Where the engine wrote why it died, shown when it never answers.
quote_engine_log() {
  local log
  if has_systemd; then
    as_root journalctl -u docker -n 10 --no-pager 2>/dev/null | sed 's/^/    /' >&2
    return
  fi
  for log in "$ENGINE_LOG" /var/log/docker.log; do
    if [ -s "$log" ]; then
      quote "$log" 10
      return
    fi
  done
}

await_engine() {
  local status deadline=$((SECONDS + ENGINE_DEADLINE))
  while true; do
    status=0
    probe_engine || status=$?
    # An engine whose socket this user may not open does run: that is the caller's next question.
    if [ "$status" -eq 0 ] || [ "$status" -eq "$FORBIDDEN" ]; then break; fi
    if [ "$SECONDS" -ge "$deadline" ]; then
      quote_engine_log
      die "the Docker engine was started but does not answer after $ENGINE_DEADLINE s: its own words stand above"
    fi
    sleep 0.2
  done
  say "the Docker engine runs at $ENGINE_SOCKET"
}

install_engine() {
  if ! has_apt; then
    die "no Docker engine is installed: install one (https://docs.docker.com/engine/install/), or set 'runtime: process' in config.yaml"
  fi
  if ! can_be_root; then
    die "no Docker engine is installed: run 'sudo apt-get install docker.io && sudo usermod -aG docker $(id -un)' and log in again, or set 'runtime: process'"
  fi
  apt_install "no Docker engine is installed" docker.io || die "could not install the Docker engine"
  if ! is_root; then
    say "adding $(id -un) to the group docker"
    as_root usermod -aG docker "$(id -un)" || die "could not add $(id -un) to the group docker"
  fi
}

# A member of the group docker whose session is older than the membership: go on with the group among the supplementary ones.
#
# sg(1) makes it the primary group, which the files and processes of this user do not have; a second sg brings the former one back and
# keeps docker among the others.
enter_docker_group() {
  local again
  if [ -n "${COMET_REGROUPED:-}" ] || is_root || ! command -v sg >/dev/null; then return; fi
  if ! id -nG "$(id -un)" | tr ' ' '\n' | grep -qx docker; then return; fi
  say "this session is older than your membership in the group docker: going on with 'sg docker'"
  again="exec $(printf '%q ' "$0" "$@")"
  COMET_REGROUPED=1 exec sg docker -c "exec sg $(printf '%q ' "$(id -gn)") -c $(printf '%q' "$again")"
}

# ensure_engine [the script's own arguments, for the case that it has to run itself again]
ensure_engine() {
  local status=0
  probe_engine || status=$?
  if [ "$status" -eq "$ABSENT" ] && [ "$ENGINE_SOCKET" = "$SYSTEM_SOCKET" ]; then
    if ! has_dockerd; then install_engine; fi
    if ! can_be_root; then die "the Docker engine does not run: start it (sudo systemctl start docker, or sudo service docker start)"; fi
    status=0
    probe_engine || status=$? # a package under systemd starts it by itself
    if [ "$status" -eq "$ABSENT" ]; then
      start_engine
      await_engine
      status=0
      probe_engine || status=$?
    fi
  fi
  if [ "$status" -eq "$FORBIDDEN" ]; then enter_docker_group "$@"; fi
  if [ "$status" -ne 0 ]; then die "$ENGINE_ERROR"; fi
}
