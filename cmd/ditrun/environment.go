package main

import (
	"os"
	"strings"
)

// environment are the variables with which users and this command tell libtorch, and what it loads, how to work.
var environment = []string{
	"OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", // OpenMP
	"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", // the allocator of GPUs, under its new name and the old one
	"CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES", // CUDA
}

// prepareEnvironment gives variables that nobody has set the values that suit this command. They are read when
// libtorch is loaded, or first used.
func prepareEnvironment() {
	// OpenMP's threads spin while they wait for each other, by default for so long
	// that a training step takes five times as long where another process or the
	// data loader shares the cores. Not spinning at all costs small models a fifth.
	// This count is about the time of a short operation.
	if !isSet("OMP_WAIT_POLICY") && !isSet("GOMP_SPINCOUNT") {
		os.Setenv("GOMP_SPINCOUNT", "4000")
	}
	// Memory of a GPU comes in blocks that grow, as PyTorch advises where it runs out: else what batches, previews and
	// checkpoints of other sizes leave between tensors is free and cannot be used.
	if !isSet("PYTORCH_ALLOC_CONF") && !isSet("PYTORCH_CUDA_ALLOC_CONF") {
		os.Setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
	}
}

// prepareDeterminism is for work with --deterministic: cuBLAS promises equal bits only with a workspace of fixed size.
func prepareDeterminism() {
	if !isSet("CUBLAS_WORKSPACE_CONFIG") {
		os.Setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
	}
}

// readEnvironment returns the variables of environment that are set.
func readEnvironment() map[string]string {
	set := map[string]string{}
	for _, name := range environment {
		if value, ok := os.LookupEnv(name); ok {
			set[name] = value
		}
	}
	return set
}

// describeEnvironment writes the variables that are set one a line.
func describeEnvironment(set map[string]string) string {
	var lines []string
	for _, name := range environment {
		if value, ok := set[name]; ok {
			lines = append(lines, name+"="+value)
		}
	}
	if lines == nil {
		return "none"
	}
	return strings.Join(lines, "\n")
}

func isSet(name string) bool {
	_, set := os.LookupEnv(name)
	return set
}
