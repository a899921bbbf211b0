package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/internal/testtool"
)

func TestFlagsStandAnywhere(t *testing.T) {
	s := spec{args: "[WORD...]", flags: []cli.Flag{
		&cli.StringFlag{Name: "out"}, &cli.BoolFlag{Name: "all"},
		&cli.IntFlag{Name: "num", Aliases: []string{"n"}, Value: 3},
	}}
	for line, want := range map[string]string{
		"work a b":                            "[a b] out= all=false num=3 json=false",
		"work a --out DIR b --all":            "[a b] out=DIR all=true num=3 json=false",
		"work a --out=DIR b --all=false -n 7": "[a b] out=DIR all=false num=7 json=false",
		"--json work --all a --out -5 b":      "[a b] out=-5 all=true num=3 json=true",
		"--threads 2 work a --json":           "[a] out= all=false num=3 json=true",
		"work a --out DIR -- --all b":         "[a --all b] out=DIR all=false num=3 json=false",
		"work -- --all":                       "[--all] out= all=false num=3 json=false",
		"work a -- b -- c":                    "[a b -- c] out= all=false num=3 json=false",
		"work - --all":                        "[-] out= all=true num=3 json=false",
		"work --out -- --all a":               "[a] out=-- all=true num=3 json=false",
		"work a --out --all":                  "[a] out=--all all=false num=3 json=false",
	} {
		got := ""
		s.run = func(e *env) error {
			c := e.flags
			got = fmt.Sprintf("%v out=%s all=%v num=%d json=%v", c.Args().Slice(), c.String("out"), c.Bool("all"),
				c.Int("num"), e.json)
			return nil
		}
		if code, _, stderr := runSpec(t.Context(), s, strings.Fields(line)...); code != 0 || got != want {
			t.Errorf("%s: %s, code %d, errors %q, want %s", line, got, code, stderr, want)
		}
	}
	for line, want := range map[string]string{
		"work a --nothing b": "ditrun: error: unknown flag --nothing\n",
		"work a --out":       "ditrun: error: --out: a value is missing\n",
		"work a --num x":     "ditrun: error: --num \"x\": want a whole number\n",
	} {
		if code, _, stderr := runSpec(t.Context(), s, strings.Fields(line)...); code != 2 ||
			!strings.HasPrefix(stderr, want) {
			t.Errorf("%s: code %d, errors %q, want %q", line, code, stderr, want)
		}
	}
	// What launch runs has its own flags.
	app := newApp(new(bytes.Buffer), new(bytes.Buffer))
	for _, line := range []string{
		"ditrun launch -n 2 train --data x --json", "ditrun --json launch train -n 3 a --b",
		"ditrun launch -n 2 -- train --data x", "ditrun", "ditrun --json", "ditrun nothing a --b",
		"ditrun inspect a --generate-bash-completion",
	} {
		if got := strings.Join(withFlagsFirst(app, strings.Fields(line)), " "); got != line {
			t.Errorf("%s became %s", line, got)
		}
	}
}

// parseOnly is the program with commands that do nothing but what comes before their work, for a command line as people
// write it.
func parseOnly(ctx context.Context, args []string) (code int, stderr string) {
	var out, errs bytes.Buffer
	app := newApp(&out, &errs)
	var launched []string
	for _, c := range app.Commands {
		c.Action = func(c *cli.Context) error {
			if c.Command.ArgsUsage == "" && c.Args().Present() {
				return usagef("unexpected argument %q", c.Args().First())
			}
			if c.Command.Name == launchName {
				launched = c.Args().Slice()
			}
			_, err := newEnv(c, nil)
			return err
		}
	}
	code = runApp(ctx, app, append([]string{"ditrun"}, args...))
	if code == 0 && launched != nil {
		return parseOnly(ctx, launched)
	}
	return code, errs.String()
}

// words splits a line as a shell does: blanks between words, quotes, comments; operators are words of their own.
func words(line string) (all []string) {
	for line = strings.TrimSpace(line); line != "" && line[0] != '#'; line = strings.TrimLeft(line, " ") {
		word := ""
		for line != "" && line[0] != ' ' {
			if quote := line[:1]; quote == "'" || quote == `"` {
				if end := strings.Index(line[1:], quote); end >= 0 {
					word, line = word+line[1:1+end], line[2+end:]
					continue
				}
			}
			word, line = word+line[:1], line[1:]
		}
		if trimmed := strings.TrimRight(word, ";)"); trimmed != word && trimmed != "" {
			all, word = append(all, trimmed), ";"
		}
		all = append(all, strings.TrimLeft(word, "("))
	}
	return all
}

var codeBlock = regexp.MustCompile("(?ms)^ *```[^\n]*\n(.*?)^ *```|^    (.*?)$|`([^`\n]+)`")

// commandLines returns the arguments of ditrun in the code of a page: fenced or indented blocks, and spans.
func commandLines(page string) (lines [][]string) {
	for _, block := range codeBlock.FindAllStringSubmatch(strings.ReplaceAll(page, "\\\n", " "), -1) {
		for line := range strings.Lines(block[1] + block[2] + block[3]) {
			all := words(strings.TrimPrefix(strings.TrimSpace(line), "$ "))
			for len(all) > 0 {
				end := slices.IndexFunc(all, func(w string) bool {
					return slices.Contains([]string{"|", "&&", "||", ";", "&", ">", ">>", "2>", "<"}, w)
				})
				command := all
				if all = nil; end >= 0 {
					command, all = command[:end], command[end+1:]
				}
				// The program is the first word, or the one that another program starts.
				at := slices.IndexFunc(command, func(w string) bool { return filepath.Base(w) == "ditrun" })
				starts := at == 0 || at > 0 &&
					(strings.Contains(command[0], "=") ||
						slices.Contains([]string{"srun", "torchrun", "mpirun", "nohup", "time", "exec", "CMD"},
							command[0]))
				if starts {
					lines = append(lines, slices.DeleteFunc(slices.Clone(command[at+1:]),
						func(w string) bool { return w == "..." }))
				}
			}
		}
	}
	return lines
}

// TestDocsShowLinesThatParse: no page, and no help text, shows a command line that the program refuses to read.
func TestDocsShowLinesThatParse(t *testing.T) {
	root := "../.."
	pages, _ := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	pages = append(pages, filepath.Join(root, "README.md"))
	if _, err := os.Stat(pages[len(pages)-1]); err != nil {
		testtool.Missing(t, "no source tree here")
	}
	total := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range commandLines(string(text)) {
			if slices.Contains(args, "COMMAND") {
				continue
			}
			for i, a := range args {
				if a == "N" { // stands for a number
					args[i] = "2"
				}
			}
			total++
			if code, stderr := parseOnly(t.Context(), args); code == 2 {
				t.Errorf("%s: ditrun %s: code %d: %s", page, strings.Join(args, " "), code, stderr)
			}
		}
	}
	t.Logf("%d command lines", total)
	if total < 40 {
		t.Errorf("%d command lines in %d pages: want more than forty", total, len(pages))
	}
	for _, c := range commands() {
		lines := commandLines("```\n" + part(helpOf(t, c.Name, 80), "Example") + "\n```\n")
		if len(lines) == 0 {
			t.Errorf("%s: no example", c.Name)
		}
		for _, args := range lines {
			if code, stderr := parseOnly(t.Context(), args); code == 2 {
				t.Errorf("%s: ditrun %s: code %d: %s", c.Name, strings.Join(args, " "), code, stderr)
			}
		}
	}
	// A line that does not parse is found.
	for _, line := range []string{"ditrun trian", "ditrun train --dta x", "ditrun train x", "ditrun train --threads -1",
		"x=1 ditrun inspect --alll F", "srun ditrun models x", "ditrun launch -n 2 train --nothing",
		"ditrun models | ditrun classes --no", "ditrun train \\\n  --data"} {
		lines := commandLines("text\n```sh\n$ " + line + "\n```\n")
		if len(lines) == 0 {
			t.Errorf("%s: not found", line)
			continue
		}
		if code, _ := parseOnly(t.Context(), lines[len(lines)-1]); code != 2 {
			t.Errorf("%s: code %d", line, code)
		}
	}
}
