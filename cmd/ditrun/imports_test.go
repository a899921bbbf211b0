package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/internal/testtool"
)

// The layers, from the bottom. A package imports packages of lower layers alone, so that the models
// know neither each other nor the data, and file formats, random numbers, schedules and data build
// without libtorch.
var layers = [][]string{
	{"internal/album", "internal/disk", "internal/mmap", "internal/names", "internal/testtool", "internal/transfer"},
	{"internal/saves", "torch/checkpoint/internal/pickle"},
	{"torch/checkpoint", "torch/philox", "diffusion/schedule", "diffusion/scaling", "data/picture/codec",
		"data/picture/sheet", "data/store", "data/store/storetest", "data/filename", "data/classes", "data/idx",
		"dit/text/bpe", "torch/internal/native", "torch/keeppages"},
	{"data/labels", "torch/checkpoint/namemap", "torch/checkpoint/numpy"},
	{"data/archive", "data/table", "diffusion/metrics"},
	{"torch"},
	{"torch/nn", "torch/dist", "torch/internal/genops"},
	{"torch/optim", "torch/torchtest"},
	{"dit", "dit/text", "diffusion", "vae", "data/picture", "diffusion/metrics/inception"},
	{"data/catalog", "data/internal/datatest"},
	{"data/captions"},
	{"data/latents"},
	{"data/tokens", "data/latents/latentstest"},
	{"data/stream", "data"},
	{"diffusion/training/samples", "diffusion/runs", "diffusion/gaussian", "diffusion/flow"},
	{"diffusion/solver"},
	{"diffusion/training", "diffusion/sampling", "vae/encode", "vae/training",
		"data/interop", "diffusion/evaluation"},
	{"diffusion/sampling/gallery"},
	{"cmd", "bench"}, // with all below them
}

// withoutC are packages that need neither libtorch nor a C compiler, withoutTorch those that do not need libtorch.
var (
	withoutC = []string{"internal/album", "internal/disk", "internal/mmap", "internal/names", "internal/saves",
		"torch/checkpoint",
		"torch/checkpoint/namemap", "torch/checkpoint/numpy", "torch/philox", "diffusion/schedule", "diffusion/scaling",
		"dit/text/bpe",
		"data/filename", "data/classes", "data/labels", "data/idx", "data/picture/sheet",
		"diffusion/metrics"}
	withoutTorch = slices.Concat(withoutC, []string{"data", "data/interop", "data/picture", "data/picture/codec",
		"data/catalog", "data/captions", "data/latents", "data/tokens", "data/stream", "data/archive", "data/table",
		"data/store", "internal/transfer", "diffusion/runs"})
)

// forTests are the packages that only tests, and each other, may import.
var forTests = []string{"internal/testtool", "torch/torchtest", "data/store/storetest", "data/internal/datatest",
	"data/latents/latentstest", "cmd/ditrun/internal/hub/hubtest"}

// forPrograms changes the whole process, so only package main of a program, and tests, may import it.
const forPrograms = "torch/keeppages"

const module = "github.com/ditrun/ditrun/"

func layerOf(pkg string) int {
	for i, names := range layers {
		for _, name := range names {
			if pkg == name || i == len(layers)-1 && strings.HasPrefix(pkg, name+"/") {
				return i
			}
		}
	}
	return -1
}

type listed struct {
	ImportPath    string
	Name          string
	Imports, Deps []string
	CgoFiles      []string
}

func listPackages(t *testing.T) map[string]listed {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		testtool.Missing(t, "no go command here")
	}
	var stderr bytes.Buffer
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Name,Imports,Deps,CgoFiles", module+"...")
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		if strings.Contains(stderr.String(), "go.mod") {
			testtool.Missing(t, "no source tree here")
		}
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	all := map[string]listed{}
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
	return all
}

func TestImportsFollowTheLayers(t *testing.T) {
	all := listPackages(t)
	ours := 0
	for _, p := range all {
		name, ok := strings.CutPrefix(p.ImportPath, module)
		if !ok {
			continue
		}
		ours++
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "misc"}, path.Base(name)) {
			t.Errorf("%s: a package is named for what it holds", name)
		}
		layer := layerOf(name)
		if layer < 0 {
			t.Errorf("%s is in no layer: give it a place in this test", name)
			continue
		}
		for _, imported := range p.Imports {
			other, ok := strings.CutPrefix(imported, module)
			if !ok {
				continue
			}
			if slices.Contains(forTests, other) && !slices.Contains(forTests, name) {
				t.Errorf("%s imports %s, which is for tests", name, other)
			}
			if other == forPrograms && p.Name != "main" && name != "torch/torchtest" {
				t.Errorf("%s imports %s, which changes the whole process", name, other)
			}
			// cmd/ditrun and its internal packages
			top := layer == len(layers)-1 && strings.HasPrefix(other, strings.Split(name, "/")[0]+"/")
			if layerOf(other) >= layer && !top {
				t.Errorf("%s imports %s, which is not in a layer below it", name, other)
			}
		}
	}
	if !slices.Contains(all[module+"cmd/ditrun"].Imports, module+forPrograms) {
		t.Errorf("cmd/ditrun does not import %s", forPrograms)
	}
	if ours < 15 {
		t.Errorf("go list names %d packages of this module", ours)
	}
}

func TestPackagesWithoutTorch(t *testing.T) {
	all := listPackages(t)
	for _, name := range withoutTorch {
		p, ok := all[module+name]
		if !ok {
			t.Errorf("there is no package %s", name)
			continue
		}
		for _, dep := range append(p.Deps, p.ImportPath) {
			if dep == module+"torch" {
				t.Errorf("%s depends on %s: it must build without libtorch", name, dep)
			}
			other, ok := strings.CutPrefix(dep, module)
			// those listed are looked at themselves
			if ok && !slices.Contains(withoutTorch, other) && layerOf(other) > 1 {
				t.Errorf("%s depends on %s", name, other)
			}
		}
	}
}

// TestPackagesWithoutC: they build without cgo. With it some use it, such as os/user of the standard library.
func TestPackagesWithoutC(t *testing.T) {
	listPackages(t) // or there is nothing to build here
	args := []string{"build"}
	for _, name := range withoutC {
		args = append(args, module+name)
	}
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestSequentialPackages: what make test runs without the race detector starts no goroutine, but for the file whose
// tests it runs with it.
func TestSequentialPackages(t *testing.T) {
	const inBackground = "torch/checkpoint/comparison.go"
	text := string(read(t, filepath.Join("..", "..", "Makefile")))
	text = strings.ReplaceAll(text, "$\\\n", "")
	found := regexp.MustCompile(`(?m)^sequential = \$\(addprefix \$\(module\)/,(.*)\)$`).FindStringSubmatch(text)
	if found == nil {
		t.Fatal("the Makefile has no list of sequential packages")
	}
	starts := map[string]bool{}
	for _, pkg := range strings.Fields(found[1]) {
		files, err := filepath.Glob(filepath.Join("..", "..", filepath.FromSlash(pkg), "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pkg, len(files), err)
		}
		for _, path := range files {
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				_, statement := n.(*ast.GoStmt)
				call, ok := n.(*ast.SelectorExpr) // of a sync.WaitGroup or an errgroup.Group
				if statement || ok && call.Sel.Name == "Go" {
					starts[pkg+"/"+filepath.Base(path)] = true
				}
				return true
			})
		}
	}
	delete(starts, "torch/checkpoint/writer_test.go") // a thread with a file system of its own
	if len(starts) != 1 || !starts[inBackground] {
		t.Errorf("%q start goroutines, want %s alone: take the packages off the list", slices.Sorted(maps.Keys(starts)),
			inBackground)
	}
}
