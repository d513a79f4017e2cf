"""Generates shell completion for bash and zsh: commands, options, their values, and replica names.

It is generated from the parser's own description of the command line, so that it is complete. Replica names are
requested at the key press from the program on the command line, so that they belong to the cluster of the current
folder. Where a Python interpreter comes first (`python supervisor.py …`), any other script is left to the completion
that was set for Python before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Completed:
    """What completion offers for a command.

    `flags` are its options. `valued` maps those that take a value to their allowed values, separated by blanks; ""
    allows any value, None means a file. `words` may stand as arguments, and with `replicas` and `files` their names.
    """

    flags: Sequence[str]
    valued: Mapping[str, str | None]
    words: str = ""
    replicas: bool = False
    files: bool = False


def script(shell: str, commands: Mapping[str, Completed]) -> str:
    """Return the text that `source <(python supervisor.py completion SHELL)` reads.

    `commands` has the options that stand before any command under "".
    """
    # One option may take other values, or none, in another command.
    valued = {f'"{name} {flag}"': values for name, each in commands.items() for flag, values in each.valued.items()}
    cases = []
    for name, command in commands.items():
        if name:
            words = " ".join([*command.flags, *command.words.split()])
            names = ' $(_comet_names "$first")' if command.replicas else ""
            cases.append(f'    {name}) {"files=yes; " if command.files else ""}found="{words}{names}" ;;')
    every = " ".join(name for name in commands if name)
    cases.append(f'    "") found="{every} {" ".join(commands[""].flags)}" ;;')
    values = [f'    {flag}) found="{words}"; return ;;' for flag, words in valued.items() if words]
    values += [f"    {'|'.join(flag for flag, words in valued.items() if words is None)}) files=yes; return ;;"]
    values += [f"    {'|'.join(flag for flag, words in valued.items() if words == '')}) return ;;"]
    return COMMON.format(valued="|".join(valued), values="\n".join(values), cases="\n".join(cases)) + (
        BASH if shell == "bash" else ZSH
    )


# Written for both shells: `typed` are the words before the one at the cursor, the program's own first. An option and
# its value are two of them, also where they are typed as one: --config=FILE.
COMMON = """# Completion of Comet's commands; source it: source <(python supervisor.py completion bash)   (or zsh)
_comet_plain() {{  # Sets `plain` to a word as the shell would pass it: without its quotes, with its ~ expanded.
  local rest=$1 quote= char
  plain=
  case $rest in "~" | "~/"*) plain=$HOME rest=${{rest:1}} ;; esac
  while [[ -n $rest ]]; do
    char=${{rest:0:1}} rest=${{rest:1}}
    if [[ $char == "\\\\" && $quote != "'" ]]; then
      plain+=${{rest:0:1}} rest=${{rest:1}}
    elif [[ $char == "$quote" ]]; then
      quote=
    elif [[ -z $quote && ($char == "'" || $char == '"') ]]; then
      quote=$char
    else
      plain+=$char
    fi
  done
}}

_comet_names() {{
  local program=() config=() i
  for ((i = 0; i < $1; i++)); do program+=("${{typed[@]:$i:1}}"); done
  for ((i = $1; i < ${{#typed[@]}} - 1; i++)); do
    if [[ "${{typed[@]:$i:1}}" == --config ]]; then config=(--config "${{typed[@]:$((i + 1)):1}}"); fi
  done
  "${{program[@]}}" completion names "${{config[@]}}" 2>/dev/null
}}

_comet_find() {{
  local first=$1 word= last= i
  found= files=
  for ((i = first; i < ${{#typed[@]}}; i++)); do
    last="${{typed[@]:$i:1}}"
    case $last in
      -*) case "$word $last" in {valued}) ((i += 1)) ;; esac ;;
      *) if [[ -z $word ]]; then word=$last; fi ;;
    esac
  done
  last="${{typed[@]: -1:1}}"
  if ((${{#typed[@]}} > first)); then
    case "$word $last" in
{values}
    esac
  fi
  case $word in
{cases}
  esac
}}
"""

BASH = """
_comet_reply() {
  local typed=() found files current=${COMP_WORDS[COMP_CWORD]} word plain
  for word in "${COMP_WORDS[@]:0:COMP_CWORD}"; do
    _comet_plain "$word"
    if [[ $word != = || ${typed[-1]} != --* ]]; then typed+=("$plain"); fi
  done
  if [[ $current == = && ${typed[-1]} == --* ]]; then current=; fi
  _comet_find "$1"
  mapfile -t COMPREPLY < <(compgen -W "$found" -- "$current")
  if [[ $files == yes ]]; then
    mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$current")
    compopt -o filenames
  fi
  if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
}

_comet() { _comet_reply 1; }

_comet_python() {
  local plain
  _comet_plain "${COMP_WORDS[1]}"
  if [[ $COMP_CWORD -gt 1 && $plain == *supervisor.py ]]; then
    _comet_reply 2
  elif [[ -n $_comet_former ]]; then
    "$_comet_former" "$@"
  else
    mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
    compopt -o filenames
  fi
}

_comet_former=
if declare -F _completion_loader >/dev/null; then _completion_loader python >/dev/null 2>&1; fi
if declare -F _python >/dev/null; then _comet_former=_python; fi
complete -F _comet comet supervisor.py
complete -F _comet_python python python3
"""

ZSH = """
_comet_reply() {
  local -a typed=()
  local found files word plain
  for word in "${(@)words[1,CURRENT-1]}"; do
    _comet_plain "$word"
    if [[ $plain == --*=* ]]; then typed+=("${plain%%=*}" "${plain#*=}"); else typed+=("$plain"); fi
  done
  if [[ $PREFIX == --*=* ]]; then
    typed+=("${PREFIX%%=*}")
    compset -P '*='
  fi
  _comet_find "$1"
  local -a whole=(${${=found}:#*=}) parts=(${(M)${=found}:#*=})
  compadd -- $whole
  compadd -S '' -- $parts
  if [[ $files == yes ]]; then _files; fi
}

_comet() { _comet_reply 1 }

_comet_python() {
  local plain
  _comet_plain "$words[2]"
  if [[ $CURRENT -gt 2 && $plain == *supervisor.py ]]; then
    _comet_reply 2
  elif autoload +X _python 2>/dev/null; then
    _python "$@"
  else
    _files
  fi
}

if ! (( $+functions[compdef] )); then autoload -Uz compinit && compinit -u; fi
compdef _comet comet supervisor.py
compdef _comet_python python python3
compdef -p _comet_python '*/python(|3)'
"""
