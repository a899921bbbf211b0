package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// withFlagsFirst returns a command line whose flags stand before the other arguments of its command: the cli
// package stops looking for flags at the first argument, people write them anywhere. What follows "--" stays an
// argument, and so does all that follows the command that launch is to run.
func withFlagsFirst(app *cli.App, args []string) []string {
	if len(args) == 0 || slices.Contains(args, "--generate-bash-completion") {
		return args
	}
	at := 1 + skipFlags(app.Flags, args[1:])
	if at >= len(args) {
		return args
	}
	command := app.Command(args[at])
	if command == nil || command.Name == launchName {
		return args
	}
	at++
	flags, others := slices.Clone(args[:at]), []string{}
	for rest := args[at:]; len(rest) > 0; {
		if rest[0] == "--" {
			others = append(others, rest[1:]...)
			break
		}
		n := skipFlags(command.Flags, rest)
		if n > len(rest) { // the last flag has no value, which the parser will say
			return append(flags, rest...)
		}
		flags, rest = append(flags, rest[:n]...), rest[n:]
		if len(rest) > 0 && rest[0] != "--" {
			others, rest = append(others, rest[0]), rest[1:]
		}
	}
	if len(others) > 0 {
		flags = append(append(flags, "--"), others...)
	}
	return flags
}

// skipFlags counts the elements of args before the first that is neither a flag nor the value of one: one more than
// there are where the value of the last is missing.
func skipFlags(flags []cli.Flag, args []string) int {
	n := 0
	for n < len(args) && len(args[n]) > 1 && args[n][0] == '-' && args[n] != "--" {
		name, _, whole := strings.Cut(strings.TrimLeft(args[n], "-"), "=")
		n++
		if !whole && takesValue(flags, name) {
			n++
		}
	}
	return n
}

// takesValue says whether the next element of a command line belongs to a flag. Of a flag that is not known the
// parser will complain in any case.
func takesValue(flags []cli.Flag, name string) bool {
	for _, f := range flags {
		if d, ok := f.(cli.DocGenerationFlag); ok && slices.Contains(f.Names(), name) {
			return d.TakesValue()
		}
	}
	return false
}
