# Swarms of the tests' and benches' own: machines in network namespaces, and a registry on one of them.
#
# Debian's package would start a registry as soon as it is installed; that is kept from it, and nothing here uses that service.

# shellcheck shell=bash

# ensure_swarm_tools WHY
ensure_swarm_tools() {
  local missing=()
  command -v ip >/dev/null || missing+=(iproute2)
  command -v tini >/dev/null || missing+=(tini)
  command -v docker-registry >/dev/null || missing+=(docker-registry)
  if [ "${#missing[@]}" -eq 0 ]; then return; fi
  if ! has_apt || ! can_be_root; then die "${missing[*]} needed ($1): sudo apt-get install ${missing[*]}"; fi
  apt_install_unstarted "$1" "${missing[@]}" || die "could not install ${missing[*]}"
}
