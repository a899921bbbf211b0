package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The generated files are checked in; this holds them to the table.
func TestGeneratedFilesAreFresh(t *testing.T) {
	files, err := generate("../..")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what ops.table gives: run `go generate ./torch`", name)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for line, want := range map[string]string{
		"Add(a tensor) a.add(a)":         "cannot read",
		"Add(a tensor) | a":              "no doc comment",
		"// Doc.\nAdd(a tensr) | a":      "unknown type",
		"// Doc.\nAdd(a tensor b) | a":   "bad argument",
		"// Doc.\nAdd(a) tensors(n) | a": "bad argument",
	} {
		if _, err := parse(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parse(%q) = %v, want an error with %q", line, err, want)
		}
	}
}

func TestSymbol(t *testing.T) {
	for name, want := range map[string]string{
		"AddScalar": "add_scalar", "SiLU": "silu", "MSELoss": "mse_loss", "Copy_": "copy_", "Conv2d": "conv2d",
		"MatMul": "matmul", "AdaLayerNorm": "ada_layer_norm",
		"LinearGELU": "linear_gelu", "MLP": "mlp",
	} {
		if got := symbol(name); got != want {
			t.Errorf("symbol(%q) = %q, want %q", name, got, want)
		}
	}
}
