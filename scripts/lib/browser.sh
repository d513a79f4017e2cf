# A browser for the tests of the page: Chromium, found or installed. Playwright (from setup.cfg) drives it and brings none of its own.

# shellcheck shell=bash

ensure_browser() {
  local name
  for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then return; fi
  done
  if ! has_apt || ! can_be_root; then die "the tests of the page need Chromium: install it (on Debian: sudo apt-get install chromium)"; fi
  apt_install "the tests of the page need a browser" chromium || die "could not install Chromium"
}
