# The project's own Python: .venv with the project (editable) in it, made once and then left alone.
#
# A stamp in .venv says what it was made from: setup.cfg, setup.py, the interpreter, the place of the clone (an editable install
# points there), and whether the extras for tests are in it. While that is unchanged pip is not run at all. Where only the place has
# changed, what points to it is renewed, which needs no network.
# pip is configured by its own environment and files; no index is named here.

# The load balancers' data path is compiled into it (python -m lb.build), where there is a C compiler: their requests then cost less CPU.
# That has a stamp of its own, over the sources of lb/.

# shellcheck shell=bash

STAMP=$VENV/.comet-installed
COMPILED=$VENV/.comet-compiled

# It is there while packages are installed whose modules are not yet translated to bytecode.
UNTRANSLATED=$VENV/.comet-untranslated

# fits PYTHON : it runs and is new enough.
fits() { [ "$("$1" -c 'import sys; print(sys.version_info >= (3, 11))' 2>/dev/null)" = True ]; }

# has_ensurepip PYTHON : it can make a venv with pip in it (Debian's python3 alone cannot).
has_ensurepip() { "$1" -c 'import venv, ensurepip' 2>/dev/null; }

# has_headers PYTHON : the data path can be compiled for it, or there is no compiler anyway.
has_headers() {
  { ! command -v cc && ! command -v gcc; } >/dev/null ||
    "$1" -IS -c 'import os, sysconfig; raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' 2>/dev/null
}

# The interpreter asked for by PYTHON=…, else the first on this machine that can do all, else the first that can make a venv, else the
# first that is new enough. The distribution's own comes before that of PATH: it is built with profile-guided optimization, and the user
# of the workers can read it, whereas pyenv's lies in a home folder.
find_python() {
  local name path best='' second='' third='' names='/usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11'
  if [ -n "${PYTHON:-}" ]; then
    fits "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.11 or newer"
    command -v "$PYTHON"
    return
  fi
  for name in $names; do
    path=$(command -v "$name") || continue
    fits "$path" || continue
    third=${third:-$path}
    has_ensurepip "$path" || continue
    second=${second:-$path}
    if has_headers "$path"; then
      best=$path
      break
    fi
  done
  printf '%s\n' "${best:-${second:-$third}}"
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

# What .venv should be made from, with these further words. Fails when its interpreter is missing or broken (the system's Python went
# away or changed its version).
wanted_content() {
  local interpreter
  interpreter=$("$VENV/bin/python" -IS -c 'import sys; print(sys.version, sys.platform)' 2>/dev/null) || return 1
  { cat -- "$ROOT/setup.cfg" "$ROOT/setup.py" && printf '%s\n' "$@" "$interpreter"; } | sha256sum | cut -d' ' -f1
}

# The same, and where.
wanted_stamp() { wanted_content "$ROOT"; }

# write_stamp EXTRAS : .venv is what it should be. The lines: what and where, the extras, what, where.
write_stamp() { printf '%s\n%s\n%s\n%s\n' "$(wanted_stamp)" "$1" "$(wanted_content)" "$ROOT" >"$STAMP"; }

# is_installed EXTRAS : .venv holds this very project, with at least these extras: so says the stamp, and no package is missing.
is_installed() {
  local stamp extras wanted
  { read -r stamp && read -r extras; } 2>/dev/null <"$STAMP" || return 1
  wanted=$(wanted_stamp) || return 1
  [ "$stamp" = "$wanted" ] && has_extras "$1" "$extras" && has_packages
}

# has_packages : nobody has taken a package out of .venv since.
has_packages() {
  "$VENV/bin/python" -I -c 'import sys
sys.path.insert(0, sys.argv[1])
from comet.host.packages import missing_packages
raise SystemExit(bool(missing_packages()))' "$ROOT"
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
  # Bytecode is made during the next steps (translate_modules), which leave a processor idle.
  : >"$UNTRANSLATED"
  run_logged "pip install" env PIP_DISABLE_PIP_VERSION_CHECK=1 "$VENV/bin/python" -m pip install --quiet --no-compile --editable "$target" ||
    die "could not install the project: see pip's message above"
  write_stamp "$extras"
}

# is_moved EXTRAS : .venv is what it should be, with at least these extras, but was made for another place.
is_moved() {
  local extras content place wanted
  { read -r _ && read -r extras && read -r content && read -r place; } 2>/dev/null <"$STAMP" || return 1
  wanted=$(wanted_content) && [ "$content" = "$wanted" ] && [ "$place" != "$ROOT" ] && has_extras "$1" "$extras"
}

# Point .venv to the place where the project is now, with what is in .venv alone. Fails where that does not do.
follow_project() {
  local extras place file
  extras=$(sed -n 2p "$STAMP") place=$(sed -n 4p "$STAMP")
  say "the project has moved here from $place: pointing .venv here"
  for file in "$VENV"/bin/*; do
    # Scripts name their interpreter, and `activate` its folder.
    if [ -f "$file" ] && [ ! -L "$file" ] && grep -qIF -- "$place/.venv" "$file"; then
      PLACE=$place VENV=$VENV "$VENV/bin/python" -IS -c 'import os, sys
with open(sys.argv[1], "r+b") as file:
    text = file.read().replace(os.fsencode(os.environ["PLACE"] + "/.venv"), os.fsencode(os.environ["VENV"]))
    file.seek(0), file.write(text), file.truncate()' "$file" || return 1
    fi
  done
  run_logged "pip install" env PIP_DISABLE_PIP_VERSION_CHECK=1 "$VENV/bin/python" -m pip install --quiet --no-index --no-deps --use-pep517 \
    --no-build-isolation --editable "$ROOT" || return 1
  write_stamp "$extras"
}

# ensure_venv none|bench|test : .venv is there and up to date. Two that start at once take turns.
ensure_venv() {
  if is_installed "$1"; then return; fi
  mkdir -p -- "$VENV" 2>/dev/null || die "cannot write to $ROOT as $(id -un): use a clone of your own"
  [ -w "$VENV" ] || die "$VENV must be made again but belongs to $(stat -c %U "$VENV"): remove it or run as that user"
  (
    end_on_signals
    if command -v flock >/dev/null; then flock 9; fi
    if is_installed "$1"; then exit 0; fi
    if is_moved "$1" && follow_project; then exit 0; fi
    if ! wanted_stamp >/dev/null || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then make_venv; fi
    install_project "$1"
  ) 9<"$ROOT"
}

# What the data path should be compiled from and by: the sources, and whether there is a compiler with the headers of this Python.
wanted_compiled() {
  {
    wanted_content || true
    (cd -- "$ROOT/lb" && find . -name '*.py' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) 2>/dev/null
    if has_compiler; then echo yes; fi
  } | sha256sum | cut -d' ' -f1
}

has_compiler() { { command -v cc || command -v gcc; } >/dev/null && has_headers "$VENV/bin/python"; }

compile() { (cd -- "$ROOT" && "$VENV/bin/python" -m lb.build); }

# What was tried counts: a data path that does not compile is not tried again before something changes.
is_compiled() {
  local wanted
  wanted=$(wanted_compiled) && [ "$(cat -- "$COMPILED" 2>/dev/null)" = "$wanted" ]
}

INTERPRETED="the data path is not compiled: load balancers run interpreted, at about a quarter more CPU"

# ensure_compiled : the data path is compiled from the sources as they are, or one line says why not. This step is optional: it never
# fails, and what did not compile is not tried again before the sources or the compiler change.
ensure_compiled() {
  local translating
  translate_modules &
  translating=$!
  (_ensure_compiled) 9<"$ROOT/lb" || say "$INTERPRETED"
  wait "$translating" || :
}

# Workers run as a user who may not write here: each start would translate these modules to bytecode again.
translate_modules() {
  local paths=("$ROOT/fault_rules" "$ROOT/worker_app")
  if [ -e "$UNTRANSLATED" ]; then paths+=("$VENV/lib"); fi
  "$VENV/bin/python" -m compileall -q "${paths[@]}" >/dev/null 2>&1 || :
  rm -f -- "$UNTRANSLATED" 2>/dev/null || :
}

_ensure_compiled() {
  local wanted
  if command -v flock >/dev/null; then flock 9; fi
  if is_compiled; then return 0; fi
  wanted=$(wanted_compiled) || return 1
  [ -w "$VENV" ] || return 0
  if has_compiler; then
    say "compiling the load balancers' data path (once per change of lb/, about 20 s)"
    with_signs_of_life "compiling" compile >&2 || say "$INTERPRETED"
  else
    say "no C compiler with Python's headers here: load balancers run interpreted, at about a quarter more CPU (Debian: apt install gcc python3-dev)"
  fi
  # In a subshell: bash itself reports what it cannot open.
  (printf '%s\n' "$wanted" >"$COMPILED") 2>/dev/null || say "$COMPILED cannot be written: the next start compiles again"
}
