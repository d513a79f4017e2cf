# Prometheus and promtool: the tests check the metrics with them, in private instances on free ports.
#
# Debian's package would start a service on the default port as soon as it is installed. A policy that forbids starts, for the time of the
# installation, keeps this machine as it was (see invoke-rc.d(8)).

# shellcheck shell=bash

POLICY=/usr/sbin/policy-rc.d

ensure_prometheus() {
  if command -v promtool >/dev/null && command -v prometheus >/dev/null; then return; fi
  if ! has_apt || ! can_be_root; then die "promtool and prometheus are needed for the tests: sudo apt-get install prometheus"; fi
  local made='' status=0
  if [ ! -e "$POLICY" ]; then
    made=yes
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
    as_root chmod 755 "$POLICY"
  fi
  apt_install "the metrics are tested with them" prometheus || status=$?
  if [ -n "$made" ]; then as_root rm -f -- "$POLICY"; fi
  if [ "$status" -ne 0 ]; then die "could not install prometheus"; fi
}
