package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

// completionCommand prints the script that makes a shell complete commands and
// flags, by calling ditrun itself with --generate-bash-completion.
func completionCommand() *cli.Command {
	return newCommand(spec{
		name:  "completion",
		usage: "print the script for completion in bash or zsh",
		args:  "bash|zsh",
		example: `source <(ditrun completion bash)
ditrun completion bash > ~/.local/share/bash-completion/completions/ditrun`,
		run: func(e *env) error {
			script, ok := map[string]string{"bash": bashCompletion, "zsh": zshCompletion}[e.flags.Args().First()]
			if !ok || e.flags.NArg() != 1 {
				return usagef("completion: want one argument, bash or zsh, found %q", e.flags.Args().Slice())
			}
			_, err := fmt.Fprint(e.stdout, script)
			return err
		},
	})
}

const bashCompletion = `_ditrun() {
  local cur="${COMP_WORDS[COMP_CWORD]}" words=("${COMP_WORDS[@]:0:COMP_CWORD}")
  [[ "$cur" == -* ]] && words+=("$cur")
  COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o bashdefault -o default -F _ditrun ditrun
`

const zshCompletion = `#compdef ditrun
_ditrun() {
  local -a found command
  command=("${(@)words[1,CURRENT-1]}")
  [[ "${words[CURRENT]}" == -* ]] && command+=("${words[CURRENT]}")
  found=("${(@f)$("${(@)command}" --generate-bash-completion 2>/dev/null)}")
  if [[ -n "${found[1]}" ]]; then compadd -- "${found[@]}"; else _files; fi
}
compdef _ditrun ditrun
`
