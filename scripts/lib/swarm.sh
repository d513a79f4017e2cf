# Swarms of the tests' and benches' own: machines in network namespaces, a registry on one of them, and one reached by ssh.
#
# Debian's packages would start a registry and an ssh server as soon as they are installed; that is kept from them, and nothing here uses
# those services.

# shellcheck shell=bash

# ensure_swarm_tools WHY [MORE…]: what the machines need, and these programs
ensure_swarm_tools() {
  local missing=()
  command -v ip >/dev/null || missing+=(iproute2)
  command -v tini >/dev/null || missing+=(tini)
  command -v docker-registry >/dev/null || missing+=(docker-registry)
  case " ${*:2} " in *" sshd "*) [ -x /usr/sbin/sshd ] || missing+=(openssh-server) ;; esac
  if [ "${#missing[@]}" -eq 0 ]; then return; fi
  if ! has_apt || ! can_be_root; then die "${missing[*]} needed ($1): sudo apt-get install ${missing[*]}"; fi
  apt_install_unstarted "$1" "${missing[@]}" || die "could not install ${missing[*]}"
}
