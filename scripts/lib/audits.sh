# What is imported is declared, what is written is used, and nothing is done that is known to be unsafe: deptry, vulture, bandit.
#
# What they may not complain of stands here, with the reason; of a single line, in a comment on it (# nosec). None of them reads setup.cfg.

# shellcheck shell=bash

PROGRAM=(comet fault_rules lb worker_app supervisor.py docker)

# deptry: an import of a package that setup.cfg does not name works only until another package stops needing it.
audit_imports() {
  local work status=0 ours=()
  for each in comet fault_rules lb worker_app supervisor tests scripts; do ours+=(--known-first-party "$each"); done
  work=$(mktemp -d)
  "$VENV/bin/python" scripts/lib/requirements.py "$work"
  # mypy brings mypyc, which python -m lb.build runs as a command; setuptools is what that one imports. The pytest plugin is imported by
  # pytest alone.
  "$VENV/bin/deptry" --no-ansi comet fault_rules lb worker_app "${ours[@]}" --requirements-files "$work/run.txt" --package-module-name-map "opentelemetry-sdk=opentelemetry,opentelemetry-exporter-otlp-proto-http=opentelemetry" \
    --per-rule-ignores "DEP002=mypy|setuptools,DEP003=pytest" ||
    status=1
  # DEP002: of the tools many are commands (ruff, coverage), plugins (pytest-xdist) or types.
  "$VENV/bin/deptry" --no-ansi tests scripts "${ours[@]}" --requirements-files "$work/run.txt,$work/dev.txt" --ignore DEP002 --exclude '/none/' ||
    status=1
  rm -rf -- "$work"
  return "$status"
}

# vulture: what only tests use belongs to them. It looks at names, so what libraries call or read is named here; attributes are left out,
# as most that nobody here reads are a library's options.
audit_use() {
  local found status=0 names=(
    # argparse's, asyncio's, waitress's and urllib3's calls into their subclasses; the prometheus client's collector
    _check_value data_received eof_received pause_writing resume_writing pull_trigger _new_conn get_connection describe task_class
    generate_trace_id generate_span_id # OpenTelemetry's calls into a subclass
    on_broken_pipe                     # rich's
    front_faults front_fault_orders    # fields that are only shown
    # a field that is only compared; a table that is found by its command's name; part of an interface
    commits statistics is_regular
    # pytest's hooks; the attributes of a module or of an object that belong to the Python API
    'pytest_*' __getattr__ urls
    # called by Python for each subclass
    __init_subclass__
  )
  # The tables of commands and of policies name functions and classes.
  mapfile -t -O "${#names[@]}" names < <("$VENV/bin/python" -c 'from comet.commands.table import COMMANDS
from lb.interface.settings import BALANCES
print(*(each.run.rpartition(":")[2] for each in COMMANDS.values() if each.run), *(name for name, _ in BALANCES.values()), sep="\n")')
  found=$("$VENV/bin/vulture" "${PROGRAM[@]}" --ignore-names "$(IFS=, && printf '%s' "${names[*]}")" --ignore-decorators \
    '@*.route,@*.get,@*.post,@*.before_request,@*.after_request,@*.errorhandler,@pytest.fixture') || status=$?
  # 3: it found something.
  if [ "$status" -ne 0 ] && [ "$status" -ne 3 ]; then return "$status"; fi
  found=$(grep -v "unused attribute '" <<<"$found") || return 0
  printf '%s\n' "$found"
  [ -z "$found" ]
}

# bandit: known ways to be unsafe.
audit_safety() {
  local allowed=(
    B101 # assert: says to mypy what is so; nothing is refused by it
    B404 B603 B606 B607 # processes: never by a shell; command lines are ours or the config's, whose author commands the cluster
    B311 # random numbers: delays, faults, ports; tokens come from `secrets`
    B105 # words like "token": names of files, fields and patterns
    B104 # 0.0.0.0: the load balancers are the front door, a container's service is reached through its own network
  )
  "$VENV/bin/bandit" --quiet --recursive "${PROGRAM[@]}" --skip "$(IFS=, && printf '%s' "${allowed[*]}")" \
    2> >(grep -v 'nosec encountered' >&2)
}
