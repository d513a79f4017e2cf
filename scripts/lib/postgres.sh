# PostgreSQL: tests start servers of their own on free ports, in folders of their own.
#
# Debian's package would start a service on the default port as soon as it is installed; that is kept from it, and nothing here uses it.

# shellcheck shell=bash

# The programs of a server are in no PATH on Debian: each version has a folder.
has_postgres() { command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

# ensure_postgres WHY
ensure_postgres() {
  if has_postgres; then return; fi
  if ! has_apt || ! can_be_root; then die "PostgreSQL is needed ($1): sudo apt-get install postgresql"; fi
  apt_install_unstarted "$1" postgresql || die "could not install postgresql"
}
