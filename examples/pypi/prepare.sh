# The package simple-repository-server, with FastAPI and uvicorn, in .venv/; and something to serve in packages/.
# Sourced by scripts/example.sh within this folder.

# shellcheck shell=bash

if [ ! -x .venv/bin/simple-repository-server ]; then
  say "installing simple-repository-server (FastAPI, uvicorn) from PyPI into $PWD/.venv"
  rm -rf .venv
  "$VENV/bin/python" -m venv .venv
  run_logged "pip install" env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --quiet 'simple-repository-server>=0.10,<1' ||
    die "could not install simple-repository-server from PyPI"
fi

if [ ! -d packages ]; then
  mkdir -p packages.part/idna
  run_logged "pip download" env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip download --quiet --no-deps --dest packages.part/idna idna ||
    die "could not download a package from PyPI"
  mv packages.part packages
fi
