package main

import (
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
)

// The help of the cli package sorts flags by name and does not wrap. Without its flag the package shows none: ours is
// one of globalFlags.
func init() { cli.HelpFlag = nil }

// A group is what help shows under one title: the names, of flags or of commands, in the order of their use.
type group struct{ title, names string }

// commandGroups are the parts of the list of commands.
var commandGroups = []group{
	{"Prepare data", "train-vae encode-latents classes"},
	{"Train", "train launch models plan scaling"},
	{"Sample", "sample eval"},
	{"Weight files", "fetch inspect convert"},
	{"This program", "bench doctor version completion help"},
}

// A section is a group with what its names stand for.
type section[T any] struct {
	title string
	items []T
}

// sortIntoSections sorts items into groups. What is in none comes last, under the title others. A name that no item
// has, or that stands there twice, is a mistake in the program.
func sortIntoSections[T any](items []T, nameOf func(T) string, others string, groups ...group) (all []section[T]) {
	left := slices.Clone(items)
	for _, g := range groups {
		s := section[T]{title: g.title}
		for _, name := range strings.Fields(g.names) {
			i := slices.IndexFunc(left, func(item T) bool { return nameOf(item) == name })
			if i < 0 {
				panic("help: " + name + " in group " + g.title + " is unknown, or in two groups")
			}
			s.items, left = append(s.items, left[i]), slices.Delete(left, i, i+1)
		}
		all = append(all, s)
	}
	all = append(all, section[T]{others, left})
	return slices.DeleteFunc(all, func(s section[T]) bool { return len(s.items) == 0 })
}

// helpAsked says whether --help was given, before the command or after it.
func helpAsked(c *cli.Context) bool {
	return slices.ContainsFunc(c.Lineage(), func(c *cli.Context) bool { return c.Bool("help") })
}

const requiredTitle = "Required"

// sections are the flags of a command as help shows them.
func (s spec) sections(global []cli.Flag) []section[cli.Flag] {
	others := "Options"
	if len(s.groups) > 0 {
		others = "Other options"
	}
	groups := append([]group{{requiredTitle, s.required}}, s.groups...)
	nameOf := func(f cli.Flag) string { return f.Names()[0] }
	return append(sortIntoSections(s.flags, nameOf, others, groups...), section[cli.Flag]{"Global options", global})
}

// writeHelp writes the help of the command, as wide as w.
func (s spec) writeHelp(w io.Writer, sections []section[cli.Flag]) error {
	p := page{width: widthOf(w)}
	p.text("Usage: ", "ditrun "+strings.TrimSpace(s.name+" [options] "+s.args))
	p.text("", "\n"+"ditrun "+s.name+": "+s.usage+".")
	if s.description != "" {
		p.text("", "\n"+s.description)
	}
	if s.example != "" {
		p.title("Example")
		p.examples(s.example)
	}
	p.flags(sections)
	_, err := io.WriteString(w, p.String())
	return err
}

// writeAppHelp writes the list of commands, as wide as w.
func writeAppHelp(w io.Writer, app *cli.App) error {
	p := page{width: widthOf(w)}
	p.text("Usage: ", "ditrun [global options] COMMAND [options]")
	p.text("", "\nditrun "+app.Usage+".")
	commands := app.VisibleCommands()
	width := 0
	for _, c := range commands {
		width = max(width, len(c.Name))
	}
	nameOf := func(c *cli.Command) string { return c.Name }
	for _, s := range sortIntoSections(commands, nameOf, "Other commands", commandGroups...) {
		p.title(s.title)
		for _, c := range s.items {
			p.row(width, c.Name, strings.Fields(c.Usage))
		}
	}
	p.flags([]section[cli.Flag]{{"Global options", app.VisibleFlags()}})
	p.text("", "\n`ditrun COMMAND --help` shows the flags of a command and an example.")
	_, err := io.WriteString(w, p.String())
	return err
}

// flags writes flags in sections, their texts under one another.
func (p *page) flags(sections []section[cli.Flag]) {
	width := 0
	for _, s := range sections {
		for _, f := range s.items {
			width = max(width, len(flagForm(f)))
		}
	}
	for _, s := range sections {
		p.title(s.title)
		for _, f := range s.items {
			_, text := flagUsage(f)
			words := strings.Fields(text)
			if d := flagDefault(f); d != "" && s.title != requiredTitle {
				words = append(words, "(default: "+d+")") // one word: it is on one line where it can be
			}
			p.row(width, flagForm(f), words)
		}
	}
}

// flagForm is a flag as it is written: "--lr NUMBER", "-n, --num-processes N".
func flagForm(f cli.Flag) string {
	var forms []string
	for _, name := range f.Names() {
		if len(name) == 1 {
			forms = append([]string{"-" + name}, forms...)
			continue
		}
		forms = append(forms, "--"+name)
	}
	form := strings.Join(forms, ", ")
	if value, _ := flagUsage(f); value != "" {
		form += " " + value
	}
	return form
}

var (
	valueName  = regexp.MustCompile("`([^`]+)`")
	valueAlone = regexp.MustCompile("^`[^`]+`: ")
)

// flagUsage returns the name of a flag's value, "" for a flag without one, and what the flag does. The usage has the
// name in backquotes, as a word of its text, "keep the last `N` checkpoints", or alone before it, "`mse|l1`: the loss".
// Numbers have a name by their type.
func flagUsage(f cli.Flag) (value, text string) {
	d := f.(cli.DocGenerationFlag)
	if !d.TakesValue() {
		return "", d.GetUsage()
	}
	switch f.(type) {
	case *cli.IntFlag, *cli.Uint64Flag:
		value = "N"
	case *cli.Float64Flag:
		value = "NUMBER"
	}
	text = d.GetUsage()
	if m := valueName.FindStringSubmatch(text); m != nil {
		value = m[1]
	}
	return value, strings.ReplaceAll(valueAlone.ReplaceAllString(text, ""), "`", "")
}

// flagDefault is the default of a flag as people would type it.
func flagDefault(f cli.Flag) string {
	text := f.(cli.DocGenerationFlag).GetDefaultText()
	switch f.(type) {
	case *cli.BoolFlag:
		return ""
	case *cli.StringFlag:
		if plain, err := strconv.Unquote(text); err == nil {
			return plain
		}
	case *cli.Float64Flag:
		if v, err := strconv.ParseFloat(text, 64); err == nil {
			return strconv.FormatFloat(v, 'f', -1, 64)
		}
	}
	return text
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
				return writeAppHelp(e.stdout, app)
			}
			if app.Command(name) == nil {
				return unknownCommand(app, name)
			}
			return app.RunContext(e.ctx, []string{app.Name, name, "--help"})
		},
	})
}
