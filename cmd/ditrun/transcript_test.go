package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write into the transcripts what the commands print")

// TestTranscripts runs the command lines in testdata/*.txt and compares what
// they print. A transcript reads as a session at a terminal:
//
//	$ ditrun trian
//	! ditrun: error: unknown command "trian"
//	? 2
//
// A line that starts with "$ " is the command line (words in single quotes
// stay whole), "! " is standard error, "? " the exit code when it is not 0,
// "# " a comment; other lines are standard output. "..." stands for anything,
// on a line of its own also for any number of lines.
//
// With -update what differs is written into the file: look at the change before you commit it. Only an exchange with a
// line "..." is left to you.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			checkTranscript(t, file)
		})
	}
}

func checkTranscript(t *testing.T, file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(asDitrun, "1") // for the processes of launch
	t.Setenv("COLUMNS", "80")
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	for _, x := range slices.Backward(parseTranscript(t, lines)) {
		if output := x.check(t, lines); output != nil {
			lines = slices.Replace(lines, x.begin, x.end, output...)
		}
	}
	if text := strings.Join(lines, "\n") + "\n"; *update && text != string(data) {
		if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// An exchange is one command line and what it must print.
type exchange struct {
	line           string
	stdout, stderr []string
	code           int
	begin, end     int // its lines below the command line, without empty ones and comments at their end
}

func parseTranscript(t *testing.T, lines []string) []*exchange {
	var all []*exchange
	for number, line := range lines {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			all = append(all, &exchange{line: command, begin: number + 1, end: number + 1})
			continue
		}
		if strings.HasPrefix(line, "# ") || len(all) == 0 && line == "" {
			continue
		}
		if len(all) == 0 {
			t.Fatalf("line %d: output before the first command", number+1)
		}
		x := all[len(all)-1]
		if line != "" {
			x.end = number + 1
		}
		switch {
		case strings.HasPrefix(line, "? "):
			if _, err := fmt.Sscan(line[2:], &x.code); err != nil {
				t.Fatalf("line %d: %v", number+1, err)
			}
		case strings.HasPrefix(line, "! "):
			x.stderr = append(x.stderr, line[2:])
		default:
			x.stdout = append(x.stdout, line)
		}
	}
	return all
}

var word = regexp.MustCompile(`'[^']*'|\S+`)

// check runs the command line. With -update it returns the lines that are to stand below it, nil where those may stay.
func (x *exchange) check(t *testing.T, lines []string) []string {
	t.Helper()
	var args []string
	for _, w := range word.FindAllString(x.line, -1) {
		args = append(args, strings.Trim(w, "'"))
	}
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, &stdout, &stderr)
	if code == x.code && pattern(x.stdout).MatchString(stdout.String()) &&
		pattern(x.stderr).MatchString(stderr.String()) {
		return nil
	}
	got, want := append(linesOf(stdout.String(), ""), linesOf(stderr.String(), "! ")...), lines[x.begin:x.end]
	if code != 0 {
		got = append(got, fmt.Sprintf("? %d", code))
	}
	if !*update || slices.Contains(x.stdout, "...") || slices.Contains(x.stderr, "...") {
		t.Errorf("$ %s\n%s\n\nwant\n%s", x.line, strings.Join(got, "\n"), strings.Join(want, "\n"))
		return nil
	}
	for i, line := range got {
		for _, w := range want { // a "..." that still fits
			if strings.Contains(w, "...") && pattern([]string{w}).MatchString(line+"\n") {
				got[i] = w
			}
		}
	}
	return got
}

// linesOf are the lines of what a command printed, without empty ones at the end.
func linesOf(text, prefix string) (lines []string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		lines = append(lines, prefix+strings.TrimSuffix(line, "\n"))
	}
	return lines
}

// pattern matches the text that the lines describe. Empty lines at the end do
// not count, so that exchanges can be set apart by them.
func pattern(lines []string) *regexp.Regexp {
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	var b strings.Builder
	b.WriteString(`\A`)
	for _, line := range lines {
		if line == "..." {
			b.WriteString(`(?s:.*)`)
			continue
		}
		b.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), `\.\.\.`, `.*`) + `\n`)
	}
	b.WriteString(`\n*\z`)
	return regexp.MustCompile(b.String())
}

func yamlString(t *testing.T, v any) string {
	t.Helper()
	data, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
