# Tools of the distribution that benches (and their tests) use: found, or installed.

# shellcheck shell=bash

# need COMMAND… : each is there, or is installed from the package that has it.
need() {
  local missing=() packages=() tool
  for tool in "$@"; do
    if command -v "$tool" >/dev/null; then continue; fi
    missing+=("$tool")
    case $tool in
      rsvg-convert) packages+=(librsvg2-bin fonts-dejavu-core) ;; # pictures as PNG, and letters in them
      *) packages+=("$tool") ;;
    esac
  done
  if [ "${#missing[@]}" -eq 0 ]; then return; fi
  has_apt && can_be_root || die "needs ${missing[*]}: install them, or run as root or with passwordless sudo on a Debian or Ubuntu"
  # The distribution starts services as it installs them; what is there for a bench must not serve.
  apt_install "for benches" "${packages[@]}" || die "could not install ${packages[*]}"
  for tool in "${missing[@]}"; do
    case $tool in nginx | haproxy) as_root service "$tool" stop >/dev/null 2>&1 || true ;; esac
  done
}
