# Shared by the scripts: how they speak, where the project lies, how they get root's rights.
#
# Every step is one line on stderr, so that `scripts/up.sh ps --json | …` stays clean. Nothing here acts by being sourced.

# shellcheck shell=bash

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
# shellcheck disable=SC2034 # for those who source this
VENV=$ROOT/.venv
SCRIPT=$(basename -- "$0")

say() { printf '%s: %s\n' "$SCRIPT" "$*" >&2; }

die() {
  say "$*"
  exit 1
}

# The last lines of a step's output, indented, for a failure that the reader has to understand.
quote() { tail -n "${2:-15}" -- "$1" | sed 's/^/    /' >&2; }

# run_logged WHAT COMMAND… : quiet when it works, but for a sign of life; when it fails, its last lines and one line that says which step
# it was.
run_logged() {
  local what=$1 log status=0
  shift
  log=$(mktemp)
  with_signs_of_life "$what" "$@" >"$log" </dev/null || status=$?
  if [ "$status" -ne 0 ]; then
    quote "$log"
    say "$what failed (exit $status)"
  fi
  rm -f -- "$log"
  return "$status"
}

LIFE_SIGN=${COMET_LIFE_SIGN:-5} # seconds between two signs of life of a step that takes long

# with_signs_of_life WHAT COMMAND… : the command, whose stderr joins its stdout; meanwhile a line now and then that it is still under way.
with_signs_of_life() {
  local what=$1 status=0 began=$SECONDS signs
  shift
  (
    trap - EXIT HUP INT TERM
    while sleep "$LIFE_SIGN" && kill -0 "$$" 2>/dev/null; do say "$what: $((SECONDS - began)) s so far"; done
  ) >/dev/null </dev/null &
  signs=$!
  SIGNS=$signs
  "$@" 2>&1 || status=$?
  end_signs "$signs"
  return "$status"
}

# The loop and its sleep: neither outlives the step, nor the script.
end_signs() {
  local sleeper
  sleeper=$(cat -- "/proc/$1/task/$1/children" 2>/dev/null) || true
  # shellcheck disable=SC2086 # a list of PIDs
  kill "$1" $sleeper 2>/dev/null || true
  wait "$1" 2>/dev/null || true
  SIGNS=
}

# end_on_signals : one line, and an end by EXIT's trap, whatever the command does with the signal.
end_on_signals() {
  trap 'end_on_signal 129' HUP
  trap 'end_on_signal 130' INT
  trap 'end_on_signal 143' TERM
}

end_on_signal() {
  if [ -n "${SIGNS:-}" ]; then end_signs "$SIGNS"; fi
  # Of a subshell and its script, which both got the signal, one says so.
  if [ "$BASHPID" = "$$" ]; then say "interrupted"; fi
  exit "$1"
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# May we act as root without asking anybody for a password?
can_be_root() { is_root || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }; }

as_root() { if is_root; then "$@"; else sudo -n -- "$@"; fi; }

# The tools of root (dockerd, service, …) are often missing from an ordinary user's PATH.
with_sbin() { PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin "$@"; }

has_apt() { command -v apt-get >/dev/null; }

# apt_install WHY PACKAGE… : the distribution's packages, without its recommendations.
apt_install() {
  local why=$1
  shift
  say "installing $* ($why)"
  run_logged "apt-get update" as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 update ||
    say "going on with the package lists that are there"
  run_logged "apt-get install $*" as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
}

POLICY=/usr/sbin/policy-rc.d

# apt_install_unstarted WHY PACKAGE… : the same, but no service is started. A policy that forbids starts, for the time of the installation,
# keeps this machine as it was (see invoke-rc.d(8)).
apt_install_unstarted() {
  local made='' status=0
  if [ ! -e "$POLICY" ]; then
    made=yes
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
    as_root chmod 755 "$POLICY"
  fi
  apt_install "$@" || status=$?
  if [ -n "$made" ]; then as_root rm -f -- "$POLICY"; fi
  return "$status"
}
