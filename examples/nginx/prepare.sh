# The image comet-example-nginx: a root file system of Debian's package nginx and all that it depends on, imported into the engine.
# Sourced by scripts/example.sh within this folder. Where there are no Debian packages, the official image does as well.

# shellcheck shell=bash

IMAGE=comet-example-nginx

# engine EXPRESSION : evaluated by Python with `api`, the engine that Comet uses, `image` and `stdin`.
engine() {
  PYTHONPATH=$ROOT "$VENV/bin/python" -c "
import sys
from comet.engine.connection import connect
api, image, stdin = connect().api, sys.argv[1], sys.stdin.buffer
$1" "$IMAGE"
}

import_image() {
  tar -C "$1" -c --owner=0 --group=0 --numeric-owner . |
    engine "api.import_image_from_stream(stdin, repository=image, tag='latest')" >/dev/null
}

# Those who have cloned with a strict umask: the containers run as another user, who has to read these.
chmod -R a+rX site nginx.conf

if ! engine "api.inspect_image(image)" 2>/dev/null; then
  root=$(mktemp -d)
  unpack_debian "$root/root" closure nginx ||
    die "no nginx from Debian's packages here; instead: docker pull nginx:stable && docker tag nginx:stable $IMAGE, then again"
  say "importing the image $IMAGE"
  import_image "$root/root" || die "the image $IMAGE could not be imported into the Docker engine"
  rm -rf -- "$root"
fi
