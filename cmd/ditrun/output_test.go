package main

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"
	"unicode"
)

// TestTextFromFilesShows: whatever way text takes to a terminal, what would act on it is made visible.
func TestTextFromFilesShows(t *testing.T) {
	hostile := "\x1b[31mRED\x1b]0;t\x07\x1b[2J\u009b1m\x9b1m\u202egnp\r\nditrun: error: all is well"
	s := spec{run: func(e *env) error {
		bar := e.progress("fetch "+hostile, "things", 3)
		bar.Set(1)
		e.printf("class %s", hostile)
		e.warn("left out: %s", hostile)
		bar.Finish()
		bar = e.progress("fetch", "things", 3)
		bar.Describe("of \x1b[31mRED\u202e")
		bar.Finish()
		w := columns{w: e.stdout}
		w.row("tensor", hostile)
		return withHint(errors.New("load "+hostile), "the classes are %s", hostile)
	}}
	code, stdout, stderr := runSpec(t.Context(), s, "work")
	if code != 1 {
		t.Errorf("code %d", code)
	}
	for _, r := range stdout + stderr {
		if !unicode.IsGraphic(r) && r != '\n' || r == unicode.ReplacementChar {
			t.Fatalf("printed %q, which has %q", stdout+stderr, r)
		}
	}
	messages := 0
	for line := range strings.Lines(stdout + stderr) {
		if strings.HasPrefix(line, "ditrun: ") {
			messages++
		}
	}
	if messages != 3 {
		t.Errorf("%d lines begin as a message does, want a warning, an error and a hint, in\n%s%s", messages, stdout,
			stderr)
	}
	quoted := `\x1b[31mRED\x1b]0;t\x07\x1b[2J\u009b1m\x9b1m\u202egnp\r`
	if n := strings.Count(stdout+stderr, quoted); n != 6 {
		t.Errorf("%d times %s in\n%s%s", n, quoted, stdout, stderr)
	}
}

// TestMessagesOfATerminal: a terminal breaks lines between words, not within commands and paths; elsewhere they are
// whole.
func TestMessagesOfATerminal(t *testing.T) {
	const text = "the cache lacks it: `ditrun fetch sd-vae-ft-ema` gets it\n" +
		"/a/path/that/is/longer/than/the/terminal/is: gone"
	for width, want := range map[int]string{
		0: "ditrun: hint: the cache lacks it: `ditrun fetch sd-vae-ft-ema` gets it\n" +
			"  /a/path/that/is/longer/than/the/terminal/is: gone\n",
		40: "ditrun: hint: the cache lacks it:\n  `ditrun fetch sd-vae-ft-ema` gets it\n" +
			"  /a/path/that/is/longer/than/the/terminal/is:\n  gone\n",
	} {
		var b strings.Builder
		if printMessage(&b, width, "hint", text); b.String() != want {
			t.Errorf("%d columns:\n%swant\n%s", width, b.String(), want)
		}
	}
	if n := messageWidth(&bytes.Buffer{}); n != 0 {
		t.Errorf("a buffer is %d columns wide", n)
	}
}

// fullAfter is a disk that is full after n bytes.
type fullAfter struct {
	bytes.Buffer
	n int
}

func (w *fullAfter) Write(b []byte) (int, error) {
	if w.n -= len(b); w.n < 0 {
		return 0, syscall.ENOSPC
	}
	return w.Buffer.Write(b)
}

func TestOutputThatCannotBeWritten(t *testing.T) {
	var errs bytes.Buffer
	for _, args := range [][]string{
		{"models"}, {"classes"}, {"classes", "--json", "--quiet"}, {"version"}, {"version", "--json"}, {"help"},
		{"help", "models"}, {"--help"}, {"train", "--help"},
		{"completion", "bash"}, {}, {"fetch"},
	} {
		for _, room := range []int{0, 10} {
			errs.Reset()
			code := run(t.Context(), append([]string{"ditrun"}, args...), &fullAfter{n: room}, &errs)
			if code != 1 || !strings.HasPrefix(errs.String(), "ditrun: error: ") ||
				!strings.Contains(errs.String(), "no space left on device") {
				t.Errorf("%q, room for %d bytes: code %d, errors %q", args, room, code, errs.String())
			}
		}
	}
	// An error of the work itself comes first.
	failing := spec{name: "work",
		run: func(e *env) error { e.printf("found"); return errors.New("load x: no such file") }}
	app := newApp(&fullAfter{}, &errs)
	app.Commands = append(app.Commands, newCommand(failing))
	errs.Reset()
	if code := runApp(t.Context(), app, []string{"ditrun", "work"}); code != 1 ||
		errs.String() != "ditrun: error: load x: no such file\n" {
		t.Errorf("code %d, errors %q", code, errs.String())
	}
	// Work whose result is in files ends well.
	files := spec{name: "files", resultInFiles: true, run: func(e *env) error { e.printf("step 1"); return nil }}
	app.Commands = append(app.Commands, newCommand(files))
	errs.Reset()
	want := "ditrun: warning: no space left on device: what was printed is lost, the result is not\n"
	if code := runApp(t.Context(), app, []string{"ditrun", "files"}); code != 0 || errs.String() != want {
		t.Errorf("code %d, errors %q, want 0, %q", code, errs.String(), want)
	}
}
