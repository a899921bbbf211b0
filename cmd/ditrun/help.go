package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// appHelp and commandHelp are templates of the cli package, which turns tabs
// into columns.
const appHelp = `Usage: ditrun [global options] COMMAND [options]

ditrun {{.Usage}}.

Commands:{{range .VisibleCommands}}
  {{.Name}}{{"\t"}}{{.Usage}}{{end}}
{{range .VisibleFlagCategories}}{{if .Name}}
{{.Name}}:{{range .Flags}}
  {{.}}{{end}}
{{end}}{{end}}
` + "`ditrun COMMAND --help` shows the flags of a command and an example.\n"

func commandHelp(s spec) string {
	var b strings.Builder
	b.WriteString("Usage: {{.HelpName}} [options]{{if .ArgsUsage}} {{.ArgsUsage}}{{end}}\n\n")
	b.WriteString("ditrun {{.Name}}: {{.Usage}}.\n")
	if s.description != "" {
		b.WriteString("\n{{.Description}}\n")
	}
	if s.example != "" {
		b.WriteString("\nExample:\n")
		for _, line := range strings.Split(strings.TrimSpace(s.example), "\n") {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	b.WriteString(`{{range .VisibleFlagCategories}}
{{if .Name}}{{.Name}}{{else}}Options{{end}}:{{range .Flags}}
  {{.}}{{end}}
{{end}}`)
	return b.String()
}

func helpCommand() *cli.Command {
	return newCommand(spec{
		name:    "help",
		usage:   "show the commands, or the help of one",
		args:    "[COMMAND]",
		example: "ditrun help doctor",
		run: func(e *env) error {
			app, name := e.flags.App, e.flags.Args().First()
			if name == "" {
				return cli.ShowAppHelp(e.flags)
			}
			c := app.Command(name)
			if c == nil {
				return unknownCommand(app, name)
			}
			cli.HelpPrinter(e.stdout, c.CustomHelpTemplate, c)
			return nil
		},
	})
}

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
