# The project's own Python: .venv with the project (editable) in it, made once and then left alone.
#
# A stamp in .venv tells what it was made from: setup.cfg, setup.py, the interpreter, the place of the clone (an editable install
# points there), and whether the extras for tests are in it. While that is unchanged pip is not run at all.
# pip is configured by its own environment and files, as ever; no index is named here.

# The load balancers' data path is compiled beside it (python -m lb.build), where there is a C compiler: their requests then cost less CPU.
# That has a stamp of its own, over the sources of lb/.

# shellcheck shell=bash

STAMP=$VENV/.comet-installed
COMPILED=$VENV/.comet-compiled

# fits PYTHON : it runs and is new enough.
fits() { [ "$("$1" -c 'import sys; print(sys.version_info >= (3, 11))' 2>/dev/null)" = True ]; }

# has_ensurepip PYTHON : it can make a venv with pip in it (Debian's python3 alone cannot).
has_ensurepip() { "$1" -c 'import venv, ensurepip' 2>/dev/null; }

# The interpreter asked for by PYTHON=…, else the first on this machine that can do all, else the first that is new enough.
find_python() {
  local name path second='' names='python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3'
  if [ -n "${PYTHON:-}" ]; then
    fits "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.11 or newer"
    command -v "$PYTHON"
    return
  fi
  for name in $names; do
    path=$(command -v "$name") || continue
    fits "$path" || continue
    if has_ensurepip "$path"; then
      printf '%s\n' "$path"
      return
    fi
    second=${second:-$path}
  done
  printf '%s\n' "$second"
}

# A Python that can make venvs, installed from the distribution where that is possible; its path on stdout.
ensure_python() {
  local python version
  python=$(find_python) || exit 1
  if [ -z "$python" ] || ! has_ensurepip "$python"; then
    if ! has_apt || ! can_be_root; then
      [ -z "$python" ] && die "Comet needs Python 3.11 or newer and found none: install it, or say PYTHON=/path/to/python3 $SCRIPT"
      die "$python cannot make a virtual environment (no ensurepip): install the package python3-venv"
    fi
    if [ -z "$python" ]; then
      apt_install "no Python 3.11 or newer found" python3 python3-venv || die "could not install Python"
    else
      version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
      apt_install "$python lacks ensurepip" "python$version-venv" || apt_install "$python lacks ensurepip" python3-venv ||
        die "could not install python3-venv"
    fi
    python=$(find_python)
    if [ -z "$python" ] || ! has_ensurepip "$python"; then
      die "Comet needs Python 3.11 or newer with venv, and the distribution has none: install one, or say PYTHON=/path/to/python3 $SCRIPT"
    fi
  fi
  printf '%s\n' "$python"
}

# What .venv should be made from. Fails when its interpreter is missing or broken (the system's Python went away or changed its version).
wanted_stamp() {
  local interpreter
  interpreter=$("$VENV/bin/python" -IS -c 'import sys; print(sys.version, sys.platform)' 2>/dev/null) || return 1
  { cat -- "$ROOT/setup.cfg" "$ROOT/setup.py" && printf '%s\n%s\n' "$ROOT" "$interpreter"; } | sha256sum | cut -d' ' -f1
}

# is_installed EXTRAS : the stamp says that .venv holds this very project, with at least these extras.
is_installed() {
  local stamp extras wanted
  { read -r stamp && read -r extras; } 2>/dev/null <"$STAMP" || return 1
  wanted=$(wanted_stamp) || return 1
  [ "$stamp" = "$wanted" ] && has_extras "$1" "$extras"
}

# has_extras WANTED THERE : the extras for tests hold those for benches, and all hold none.
has_extras() { [ "$1" = none ] || [ "$1" = "$2" ] || { [ "$1" = bench ] && [ "$2" = test ]; }; }

make_venv() {
  local python
  python=$(ensure_python) || exit 1
  say "creating .venv ($("$python" -V 2>&1), $python)"
  run_logged "creating .venv" "$python" -m venv --clear "$VENV" || die "could not create $VENV"
}

install_project() {
  local extras=$1 target=$ROOT
  # Extras that are there stay: an install for running does not take the test tools away.
  if [ -e "$STAMP" ] && has_extras "$extras" "$(sed -n 2p "$STAMP")"; then extras=$(sed -n 2p "$STAMP"); fi
  case $extras in
    test) target="${ROOT}[test]" ;;
    bench) target="${ROOT}[compiled,bench]" ;;
    *)
      extras=none
      target="${ROOT}[compiled]"
      ;;
  esac
  say "installing the project into .venv by pip (setup.cfg names what it needs)"
  rm -f -- "$STAMP"
  run_logged "pip install" env PIP_DISABLE_PIP_VERSION_CHECK=1 "$VENV/bin/python" -m pip install --quiet --editable "$target" ||
    die "could not install the project: see pip's message above"
  printf '%s\n%s\n' "$(wanted_stamp)" "$extras" >"$STAMP"
}

# ensure_venv none|bench|test : .venv is there and up to date. Two that start at once take turns.
ensure_venv() {
  if is_installed "$1"; then return; fi
  mkdir -p -- "$VENV" 2>/dev/null || die "cannot write to $ROOT as $(id -un): use a clone of your own"
  [ -w "$VENV" ] || die "$VENV must be made anew but belongs to $(stat -c %U "$VENV"): remove it or run as that user"
  (
    command -v flock >/dev/null && flock 9
    if is_installed "$1"; then exit 0; fi
    if ! wanted_stamp >/dev/null || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then make_venv; fi
    install_project "$1"
  ) 9<"$ROOT"
}

# What the data path should be compiled from and by: the sources, and whether there is a compiler with the headers of this Python.
wanted_compiled() {
  {
    head -n 1 -- "$STAMP"
    cat -- "$ROOT"/lb/*.py
    has_compiler && echo yes
  } | sha256sum | cut -d' ' -f1
}

has_compiler() {
  command -v cc >/dev/null || command -v gcc >/dev/null || return 1
  "$VENV/bin/python" -IS -c 'import os, sysconfig; raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
}

# ensure_compiled : the data path is compiled from the sources as they are, or it was said once why not. Never fails: what is not
# compiled runs interpreted.
ensure_compiled() {
  (
    command -v flock >/dev/null && flock 9
    local wanted
    wanted=$(wanted_compiled)
    if [ "$(cat -- "$COMPILED" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
    [ -w "$VENV" ] || exit 0
    if has_compiler; then
      say "compiling the load balancers' data path (once per change of lb/, about 20 s)"
      (cd -- "$ROOT" && "$VENV/bin/python" -m lb.build) || say "going on without: requests cost about a quarter more CPU"
    else
      say "no C compiler with Python's headers here: load balancers run interpreted, at about a quarter more CPU (Debian: apt install gcc python3-dev)"
    fi
    printf '%s\n' "$wanted" >"$COMPILED"
  ) 9<"$ROOT/lb"
}
