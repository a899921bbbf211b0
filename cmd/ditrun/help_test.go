package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
)

// helpOf is the help of a command, the list of commands for "", at a width.
func helpOf(t *testing.T, command string, width int) string {
	t.Helper()
	t.Setenv("COLUMNS", fmt.Sprint(width))
	args := []string{"ditrun", command, "--help"}
	if command == "" {
		args = args[:1]
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), args, &out, &errs); code != 0 || errs.Len() != 0 {
		t.Errorf("%s --help: code %d, errors %q", command, code, errs.String())
	}
	return out.String()
}

// part is what stands under a title of a help text.
func part(text, title string) string {
	_, after, _ := strings.Cut(text, "\n"+title+":\n")
	before, _, _ := strings.Cut(after, "\n\n")
	return before
}

// TestHelpIsComplete: each command has an example that begins with its name and a one-line usage in the house form.
func TestHelpIsComplete(t *testing.T) {
	for _, c := range commands() {
		if example := part(helpOf(t, c.Name, 80), "Example"); !strings.Contains(example, "ditrun ") {
			t.Errorf("%s: the help shows no example", c.Name)
		}
		if c.Usage == "" || strings.HasSuffix(c.Usage, ".") || c.Usage[:1] != strings.ToLower(c.Usage[:1]) {
			t.Errorf("%s: usage %q", c.Name, c.Usage)
		}
	}
}

// TestHelpFitsTheTerminal: no line is wider than the terminal, within bounds, but of an example that cannot be broken
// so that it can be pasted: one flag with its value. Examples say the same at each width.
func TestHelpFitsTheTerminal(t *testing.T) {
	names := []string{""}
	for _, c := range commands() {
		names = append(names, c.Name)
	}
	broken := regexp.MustCompile(`\s*\\\n\s*`)
	for _, name := range names {
		whole := part(helpOf(t, name, maxWidth), "Example")
		for _, width := range []int{20, 60, 80, 120} {
			text := helpOf(t, name, width)
			example := part(text, "Example")
			for line := range strings.Lines(text) {
				line = strings.TrimSuffix(line, "\n")
				unbroken := strings.Contains(example, line) && !strings.Contains(strings.TrimSpace(line), " -")
				if n := utf8.RuneCountInString(line); n > min(max(width, minWidth), maxWidth) && !unbroken {
					t.Errorf("%s at %d columns: a line of %d: %s", name, width, n, line)
				}
				if strings.TrimRight(line, " ") != line {
					t.Errorf("%s at %d columns: blanks at the end of %q", name, width, line)
				}
			}
			if a, b := broken.ReplaceAllString(example, " "), broken.ReplaceAllString(whole, " "); a != b {
				t.Errorf("%s: at %d columns the example is\n%s\nwant\n%s", name, width, a, b)
			}
		}
	}
}

// TestHelpHasEachFlag: once, with a name for its value, and in a group where a command has groups, as one with many
// flags must. The flags that a command cannot begin without come first.
func TestHelpHasEachFlag(t *testing.T) {
	const many = 14 // with the global ones
	missing := regexp.MustCompile(`error: \S+: (--.*) (?:is|are) required`)
	for _, c := range commands() {
		text := helpOf(t, c.Name, 80)
		for _, f := range c.Flags {
			if value, _ := flagUsage(f); value == "" && f.(cli.DocGenerationFlag).TakesValue() {
				t.Errorf("%s --%s: give the value a name in backquotes, as in \"`DIR` for run folders\"", c.Name,
					f.Names()[0])
			}
			line := regexp.MustCompile(`(?m)^  ` + regexp.QuoteMeta(flagForm(f)) + `($|  )`)
			if n := len(line.FindAllString(text, -1)); n != 1 {
				t.Errorf("%s: %d lines %q in the help", c.Name, n, flagForm(f))
			}
		}
		if part(text, "Other options") != "" || len(c.Flags) > many && part(text, "Options") != "" {
			t.Errorf("%s: these flags are in none of the groups of its spec:\n%s%s", c.Name, part(text, "Options"),
				part(text, "Other options"))
		}
		if c.Name == "doctor" || c.Name == "bench" {
			continue // they take their time
		}
		_, afterExample, _ := strings.Cut(text, "\nExample:\n")
		first, _, _ := strings.Cut(strings.TrimPrefix(afterExample[strings.Index(afterExample, "\n\n"):], "\n\n"), ":")
		errs := ditrun(t, c.Name).stderr
		if m := missing.FindStringSubmatch(errs); m != nil && first != "Required" {
			t.Errorf("%s: the first flags are %q, want those required: %s", c.Name, first, m[1])
		} else if m != nil {
			for _, name := range strings.Split(m[1], " and ") {
				if !strings.Contains(part(text, "Required"), name+" ") {
					t.Errorf("%s: %s is not among the required flags", c.Name, name)
				}
			}
		}
	}
	if text := helpOf(t, "", 80); strings.Contains(text, "Other commands") {
		t.Errorf("commands in none of commandGroups:\n%s", part(text, "Other commands"))
	}
}

func TestHelpText(t *testing.T) {
	t.Setenv("COLUMNS", "50")
	s := spec{
		usage: "try out", required: "data",
		description: "Words that need more room than\none line has.\n\nAnother paragraph.",
		example:     "ditrun work --data 'a b c d e f g h' --one-more 3 --last\nditrun work",
		groups:      []group{{"Numbers", "lr steps"}, {"Words", "kind alone"}},
		flags: []cli.Flag{
			&cli.StringFlag{Name: "kind", Value: "a", Usage: "`a|b`: which of the two kinds of things"},
			&cli.BoolFlag{Name: "alone", Usage: "by itself"},
			&cli.IntFlag{Name: "steps", Aliases: []string{"s"}, DefaultText: "as many as there are", Usage: "how many"},
			&cli.StringFlag{Name: "data", Usage: "pictures in `DIR`"},
			&cli.Float64Flag{Name: "lr", Value: 1e-5, Usage: "learning rate"},
			&cli.StringFlag{Name: "rest", Value: "none", Usage: "`NAME`: something else"},
			&cli.BoolFlag{Name: "by-twos-and-threes", Usage: "two or three at a time"},
		},
	}
	code, out, errs := runSpec(t.Context(), s, "work", "--lr", "3", "--help")
	want := `Usage: ditrun work [options]

ditrun work: try out.

Words that need more room than one line has.

Another paragraph.

Example:
  ditrun work --data 'a b c d e f g h' \
      --one-more 3 --last
  ditrun work

Required:
  --data DIR        pictures in DIR

Numbers:
  --lr NUMBER       learning rate
                    (default: 0.00001)
  -s, --steps N     how many (default: as many as
                    there are)

Words:
  --kind a|b        which of the two kinds of
                    things (default: a)
  --alone           by itself

Other options:
  --rest NAME       something else (default: none)
  --by-twos-and-threes
                    two or three at a time

Global options:
  --device DEVICE   compute on DEVICE: auto, cpu,
                    cuda or cuda:N (default: auto)
  --threads N       use N threads on the CPU
                    (default: one per core)
  --no-fused        compute with libtorch's
                    operations alone
  --json            write the result as one JSON
                    object
  --quiet           write only results, warnings
                    and errors
  -h, --help        show this help
`
	if code != 0 || out != want || errs != "" {
		t.Errorf("code %d, errors %q, prints\n%s\nwant\n%s", code, errs, out, want)
	}
	defer func() {
		if recover() == nil {
			t.Error("a group of a flag that is not there is taken")
		}
	}()
	newCommand(spec{groups: []group{{"Numbers", "lr"}}})
}

// TestHelpAsksTheTerminal: where the environment does not say how wide it is.
func TestHelpAsksTheTerminal(t *testing.T) {
	controller, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no pseudo-terminal: ", err)
	}
	defer controller.Close()
	fd := int(controller.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	for columns, want := range map[uint16]int{50: 50, 3: minWidth, 300: maxWidth, 0: format.LineWidth} {
		if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
			t.Fatal(err)
		}
		t.Setenv("COLUMNS", "")
		if got := widthOf(&output{Writer: terminal}); got != want {
			t.Errorf("at %d columns: %d, want %d", columns, got, want)
		}
		t.Setenv("COLUMNS", "70")
		if got := widthOf(terminal); got != 70 {
			t.Errorf("with COLUMNS=70: %d", got)
		}
	}
}

// TestHelpFlag: --help shows the help of the command wherever it stands, and before what else is wrong.
func TestHelpFlag(t *testing.T) {
	want := helpOf(t, "sample", 80)
	for _, line := range []string{"sample --help", "sample -h", "--help sample", "help sample", "--json sample -h",
		"sample --cfg-scale 0 -h", "sample nothing --help"} {
		if o := ditrun(t, strings.Fields(line)...); o.code != 0 || o.stdout != want || o.stderr != "" {
			t.Errorf("%s: code %d, errors %q\n%s", line, o.code, o.stderr, o.stdout)
		}
	}
	list := helpOf(t, "", 80)
	for _, line := range []string{"--help", "-h", "help", "--json --help"} {
		if o := ditrun(t, slices.Concat(strings.Fields(line))...); o.code != 0 || o.stdout != list || o.stderr != "" {
			t.Errorf("%s: code %d, errors %q\n%s", line, o.code, o.stderr, o.stdout)
		}
	}
}
