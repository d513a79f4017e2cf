# The engines that a cluster is tested on besides the user's own: Podman, and engines of an ordinary user. Nothing of them is started here.

# shellcheck shell=bash

# ensure_engine_kinds WHY : what this machine can have of them. What it cannot have is left out by the tests, each with a line.
ensure_engine_kinds() {
  local missing=() program
  for program in podman:podman newuidmap:uidmap slirp4netns:slirp4netns rootlesskit:rootlesskit catatonit:catatonit; do
    with_sbin command -v "${program%:*}" >/dev/null || missing+=("${program#*:}")
  done
  [ -x /usr/lib/podman/netavark ] || [ -x /usr/libexec/podman/netavark ] || missing+=(netavark aardvark-dns)
  if [ "${#missing[@]}" -eq 0 ]; then return; fi
  if ! has_apt || ! can_be_root; then
    say "without ${missing[*]} ($1)"
    return
  fi
  apt_install_unstarted "$1" "${missing[@]}" || say "going on without ${missing[*]}"
}
