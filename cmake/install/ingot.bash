# Completion of ingot's commands, options and files. Both lists come from the program's own help.
_ingot() {
  local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]:-}
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    mapfile -t COMPREPLY < <(compgen -W "$(ingot --help 2>/dev/null | sed -n 's/^  ingot \([^ ]*\).*/\1/p')" -- "$word")
  elif [[ $word == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(ingot "$command" --help 2>/dev/null | sed -n 's/^  \(--[a-z-]*\).*/\1/p')" -- "$word")
  elif [ "$command" = methods ]; then
    mapfile -t COMPREPLY < <(compgen -W "$(ingot methods 2>/dev/null | sed -n 's/^\([a-z_]*\):.*/\1/p')" -- "$word")
  else
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
  fi
}
complete -o filenames -F _ingot ingot
