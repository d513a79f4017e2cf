# Prometheus and promtool: the tests check the metrics with them, in private instances on free ports.
#
# Debian's package would start a service on the default port as soon as it is installed; that is kept from it.

# shellcheck shell=bash

ensure_prometheus() {
  if command -v promtool >/dev/null && command -v prometheus >/dev/null; then return; fi
  if ! has_apt || ! can_be_root; then die "promtool and prometheus are needed for the tests: sudo apt-get install prometheus"; fi
  apt_install_unstarted "the metrics are tested with them" prometheus || die "could not install prometheus"
}
