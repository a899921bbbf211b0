package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

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
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			t.Setenv(asDitrun, "1") // for the processes of launch
			for _, x := range parseTranscript(t, string(data)) {
				x.check(t)
			}
		})
	}
}

// An exchange is one command line and what it must print.
type exchange struct {
	line           string
	stdout, stderr []string
	code           int
}

func parseTranscript(t *testing.T, text string) []*exchange {
	var all []*exchange
	for number, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			all = append(all, &exchange{line: command})
			continue
		}
		if strings.HasPrefix(line, "# ") || len(all) == 0 && line == "" {
			continue
		}
		if len(all) == 0 {
			t.Fatalf("line %d: output before the first command", number+1)
		}
		x := all[len(all)-1]
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

func (x *exchange) check(t *testing.T) {
	t.Helper()
	var args []string
	for _, w := range word.FindAllString(x.line, -1) {
		args = append(args, strings.Trim(w, "'"))
	}
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, &stdout, &stderr)
	if code != x.code {
		t.Errorf("$ %s\nexit code %d, want %d", x.line, code, x.code)
	}
	for _, stream := range []struct {
		name, got string
		want      []string
	}{
		{"standard output", stdout.String(), x.stdout},
		{"standard error", stderr.String(), x.stderr},
	} {
		if !pattern(stream.want).MatchString(stream.got) {
			t.Errorf("$ %s\n%s is\n%swant\n%s", x.line, stream.name, stream.got, strings.Join(stream.want, "\n"))
		}
	}
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
