package main

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocsSayWhereThingsAre: each file that the table in docs/README.md names is there, and each name is in one of the
// files of its row.
func TestDocsSayWhereThingsAre(t *testing.T) {
	root := filepath.Join("..", "..")
	page, err := os.ReadFile(filepath.Join(root, "docs", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(page), "\n## Where is what\n")
	table, _, _ = strings.Cut(table, "\n## ")
	quoted := regexp.MustCompile("`([^`]+)`")
	rows := 0
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 || !strings.Contains(cells[1], "`") {
			continue
		}
		rows++
		dir, text := "", ""
		for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
			name := m[1]
			if !strings.Contains(name, "/") { // beside the one before
				name = path.Join(dir, name)
			}
			dir = path.Dir(name)
			found, err := textBelow(filepath.Join(root, filepath.FromSlash(name)))
			if err != nil {
				t.Errorf("%s: %v", strings.TrimSpace(cells[0]), err)
			}
			text += found
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[2], -1) {
			name := m[1][strings.LastIndexByte(m[1], '.')+1:]
			if !regexp.MustCompile(`\b` + regexp.QuoteMeta(name) + `\b`).MatchString(text) {
				t.Errorf("%s: no %s in %s", strings.TrimSpace(cells[0]), m[1], strings.TrimSpace(cells[1]))
			}
		}
	}
	if !ok || rows < 30 {
		t.Errorf("%d rows, want the whole table", rows)
	}
}

// textBelow returns the text of a file, or of the sources in a folder.
func textBelow(name string) (string, error) {
	var all strings.Builder
	err := filepath.WalkDir(name, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || p != name && strings.HasSuffix(p, "_test.go") {
			return err
		}
		if ext := filepath.Ext(p); p != name && ext != ".go" && ext != ".cpp" && ext != ".h" {
			return nil
		}
		text, err := os.ReadFile(p)
		all.Write(text)
		return err
	})
	return all.String(), err
}

// TestDocsShowCodeOfTests: the Go code of these pages is that of tests, line by line.
func TestDocsShowCodeOfTests(t *testing.T) {
	root := filepath.Join("..", "..")
	for _, p := range []struct {
		page   string
		tests  []string
		pieces int
	}{
		{"extending.md", []string{"dit/extend_test.go", "vae/encode/extend_test.go"}, 4},
	} {
		page, err := os.ReadFile(filepath.Join(root, "docs", p.page))
		if err != nil {
			t.Fatal(err)
		}
		var tests string
		for _, name := range p.tests {
			text, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				t.Fatal(err)
			}
			tests += string(text)
		}
		tests = indent.ReplaceAllString(tests, "")
		blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(page), -1)
		if len(blocks) < p.pieces {
			t.Errorf("%s: %d pieces of code, want %d", p.page, len(blocks), p.pieces)
		}
		for _, b := range blocks {
			if !strings.Contains(tests, indent.ReplaceAllString(b[1], "")) {
				t.Errorf("%s: not in a test:\n%s", p.page, b[1])
			}
		}
	}
}
