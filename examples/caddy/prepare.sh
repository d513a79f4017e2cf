# Caddy in .caddy/: unpacked from Debian's package, not installed; else the one that is on this machine.
# Sourced by scripts/example.sh within this folder.

# shellcheck shell=bash

# Those who have cloned with a strict umask, as root: the processes run as another user.
chmod a+rX Caddyfile

if [ ! -x .caddy/usr/bin/caddy ]; then
  if found=$(command -v caddy); then
    mkdir -p .caddy/usr/bin
    ln -sf -- "$found" .caddy/usr/bin/caddy
  else
    unpack_debian "$PWD/.caddy" alone caddy || die "no Caddy here and none in the distribution's packages: install it (caddyserver.com), then again"
  fi
fi
