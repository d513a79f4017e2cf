# Debian packages unpacked into a folder: their programs without an installation, so that no service is started and no file of the
# system changes. The distribution's own signatures and checksums are checked by apt, as always.

# shellcheck shell=bash

# unpack_debian FOLDER closure|alone PACKAGE… : the packages' files in FOLDER, made whole or not at all. `closure` brings everything they
# depend on, the C library included: enough for a root file system of a container.
unpack_debian() {
  local folder=$1 extent=$2 work status=0
  shift 2
  if ! has_apt || ! command -v dpkg-deb >/dev/null; then return 1; fi
  work=$(mktemp -d)
  _unpack "$work" "$extent" "$@" || status=$?
  if [ "$status" -eq 0 ]; then
    rm -rf -- "$folder"
    mv -- "$work/root" "$folder" || status=$?
  fi
  rm -rf -- "$work"
  return "$status"
}

_unpack() {
  local work=$1 extent=$2 deb name
  shift 2
  mkdir -p -- "$work/debs/partial" "$work/root"
  chmod 755 "$work" "$work/debs" "$work/root"
  # The lists of an image made for containers are empty.
  if ! apt-cache show "$@" >/dev/null 2>&1 && can_be_root; then
    run_logged "apt-get update" as_root apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 update || return 1
  fi
  say "downloading $* from the distribution's packages"
  if [ "$extent" = closure ]; then
    # With a status file that knows of nothing, everything counts as missing.
    : >"$work/status"
    run_logged "apt-get download of $*" apt-get -o Dir::State::status="$work/status" -o Dir::Cache::archives="$work/debs/" \
      -o Debug::NoLocking=true -o Acquire::Retries=3 -o APT::Sandbox::User="$(id -un)" \
      --yes --no-install-recommends --download-only install "$@" || return 1
    # Distributions have /bin, /lib, … as links into /usr; a package may still name a file by its place before that.
    mkdir -p -- "$work/root/usr" "$work/root/tmp"
    chmod 1777 "$work/root/tmp"
    for name in bin sbin lib lib64; do
      mkdir -p -- "$work/root/usr/$name"
      ln -s "usr/$name" "$work/root/$name"
    done
  else
    (cd -- "$work/debs" && run_logged "apt-get download of $*" apt-get -o Acquire::Retries=3 -o APT::Sandbox::User="$(id -un)" download "$@") || return 1
  fi
  for deb in "$work"/debs/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink --no-same-owner -C "$work/root" || return 1
  done
}
