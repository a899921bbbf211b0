package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/internal/testtool"
)

// TestCodeInDocsCompiles: each Go block of README.md and docs/ stands, line by line, in a file of this module, or
// compiles:
//
//   - A block that begins with "package" is a program.
//
//   - The others of a page are one package. Blocks of declarations are put there as they are. A block of statements
//     becomes a function with the parameter ctx and the result err; names that it takes from elsewhere are in a comment
//     above the block, as parameters are written:
//
//     <!-- go: p *sampling.Pipeline, r sampling.Request -->
//
//   - Packages of this module and of the standard library are imported by their names.
func TestCodeInDocsCompiles(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) == 0 {
		testtool.Missing(t, "no docs here")
	}
	paths := importPaths(t)
	ours := indent.ReplaceAllString(goCode(t, root), "")
	overlay := map[string]string{} // files that only the compiler sees
	dir, blocks := t.TempDir(), 0
	for _, page := range append(pages, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(page), ".md")
		for i, b := range goBlock.FindAllStringSubmatch(string(text), -1) {
			blocks++
			params, code := b[1], b[2]
			if strings.Contains(ours, indent.ReplaceAllString(code, "")) {
				continue
			}
			file := filepath.Join(dir, fmt.Sprintf("%s%d.go", name, i))
			source, err := compilable(code, params, paths)
			if err != nil {
				t.Errorf("%s: %v:\n%s", page, err, code)
				continue
			}
			if err := os.WriteFile(file, source, 0o666); err != nil {
				t.Fatal(err)
			}
			in := name
			if isProgram(code) {
				in = fmt.Sprint(name, i)
			}
			overlay[filepath.Join(root, "internal", "docs", in, filepath.Base(file))] = file
		}
	}
	if blocks < 8 {
		t.Errorf("%d blocks of Go code, want those of all pages", blocks)
	}
	compileDocs(t, dir, overlay)
}

// TestPackageCommentsLeadToExamples: the packages that a Go program begins with have an example, to which their
// comments link.
func TestPackageCommentsLeadToExamples(t *testing.T) {
	for _, dir := range []string{"diffusion/sampling", "diffusion/training", "vae/encode", "data/catalog",
		"data/picture", "dit", "torch", "torch/checkpoint"} {
		files, err := filepath.Glob(filepath.Join("..", "..", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) == 0 {
			testtool.Missing(t, "no source tree here")
		}
		var all strings.Builder
		for _, name := range files {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(text)
		}
		for _, want := range []string{"\nfunc Example() {\n", "\n// [example]: https://pkg.go.dev/" + module + dir +
			"#example-package\npackage "} {
			if !strings.Contains(all.String(), want) {
				t.Errorf("%s lacks %q", dir, want)
			}
		}
	}
}

var (
	goBlock = regexp.MustCompile("(?sm)(?:^<!-- go: ([^\n]*) -->\n\n?)?^```go\n(.*?)^```$")
	indent  = regexp.MustCompile(`(?m)^\t+`)
)

// compileDocs compiles files as if they were in this module, without linking programs.
func compileDocs(t *testing.T, dir string, overlay map[string]string) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, text, 0o666); err != nil {
		t.Fatal(err)
	}
	args := []string{"list", "-export", "-f", "{{.Name}}", "-overlay", list}
	for file := range overlay {
		pkg := module + "internal/docs/" + filepath.Base(filepath.Dir(file))
		if !slices.Contains(args, pkg) {
			args = append(args, pkg)
		}
	}
	if len(overlay) == 0 {
		return
	}
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Errorf("code of docs/: %v\n%s", err, out)
	}
}

// goCode is the text of all Go files of this module.
func goCode(t *testing.T, root string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != root && (strings.HasPrefix(d.Name(), ".") ||
			slices.Contains([]string{"build", "third_party", "docs"}, d.Name())):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(p) != ".go":
			return nil
		}
		text, err := os.ReadFile(p)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// importPaths are the packages of this module that other programs can import, and those of the standard library that
// it uses, by name.
func importPaths(t *testing.T) map[string]string {
	t.Helper()
	all := listPackages(t)
	paths := map[string]string{}
	for _, path := range slices.Sorted(maps.Keys(all)) {
		name, ours := strings.CutPrefix(path, module)
		if strings.Contains("/"+path+"/", "/internal/") || !ours && strings.Contains(path, ".") ||
			ours && layerOf(name) == len(layers)-1 {
			continue
		}
		if _, taken := paths[all[path].Name]; !taken || ours && !strings.HasPrefix(paths[all[path].Name], module) {
			paths[all[path].Name] = path
		}
	}
	return paths
}

func isProgram(code string) bool { return strings.HasPrefix(code, "package ") }

// compilable makes a file of a block.
func compilable(code, params string, paths map[string]string) ([]byte, error) {
	if isProgram(code) {
		return []byte(code), nil
	}
	const head = "package docs\n"
	if f, err := parser.ParseFile(token.NewFileSet(), "", head+code, 0); err == nil {
		return []byte(head + importsOf(f, paths) + code), nil
	}
	if params != "" {
		params = ", " + params
	}
	function := "func _(ctx context.Context" + params + ") (err error) {\n"
	f, err := parser.ParseFile(token.NewFileSet(), "", head+function+code+"\nreturn nil }", 0)
	if err != nil {
		return nil, err
	}
	body := f.Decls[0].(*ast.FuncDecl).Body.List
	body = body[:len(body)-1] // of the block alone
	// What the last statement ends would make `return nil` unreachable; what is only defined counts as used.
	end, used := "return nil", ""
	var names []string
	for _, s := range body {
		if a, ok := s.(*ast.AssignStmt); ok && a.Tok == token.DEFINE {
			for _, e := range a.Lhs {
				if id := e.(*ast.Ident); id.Name != "_" && !slices.Contains(names, id.Name) {
					names = append(names, id.Name)
				}
			}
		}
	}
	for _, name := range names {
		used += "_ = " + name + "\n"
	}
	if r, ok := body[len(body)-1].(*ast.ReturnStmt); ok {
		at := int(r.Pos()) - 1 - len(head+function)
		code, end = code[:at]+used+code[at:], ""
	} else {
		code += used
	}
	// The block within the function may define err anew.
	source := head + importsOf(f, paths) + function + "{\n" + code + "}\n" + end + "}\n"
	if end == "" {
		source = strings.Replace(source, "}\n}\n", "}}\n", 1)
	}
	return format.Source([]byte(source))
}

// importsOf imports the packages whose names f has before a dot.
func importsOf(f *ast.File, paths map[string]string) string {
	defined, used := map[string]bool{}, map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for _, e := range n.Lhs {
				if id, ok := e.(*ast.Ident); ok && n.Tok == token.DEFINE {
					defined[id.Name] = true
				}
			}
		case *ast.RangeStmt:
			for _, e := range []ast.Expr{n.Key, n.Value} {
				if id, ok := e.(*ast.Ident); ok {
					defined[id.Name] = true
				}
			}
		case *ast.Field:
			for _, id := range n.Names {
				defined[id.Name] = true
			}
		case *ast.ValueSpec:
			for _, id := range n.Names {
				defined[id.Name] = true
			}
		case *ast.SelectorExpr:
			if id, ok := n.X.(*ast.Ident); ok {
				used[id.Name] = true
			}
		}
		return true
	})
	var lines strings.Builder
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if path := paths[name]; path != "" && !defined[name] {
			fmt.Fprintf(&lines, "import %q\n", path)
		}
	}
	return lines.String()
}
