package main

import (
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/torch"
)

// readVersion is what the binary knows of itself, without opening libtorch.
func readVersion() runs.Versions { return runs.BuildVersions() }

type versionResult struct {
	runs.Versions
	OS            string `json:"os"`
	Arch          string `json:"arch"`
	CUDA          bool   `json:"cuda"`
	CUDADevices   int    `json:"cuda_devices"`
	CUDAWhyNot    string `json:"cuda_why_not,omitempty"`
	LibtorchError string `json:"libtorch_error,omitempty"`
}

func versionCommand() *cli.Command {
	return newCommand(spec{
		name:  "version",
		usage: "print the versions of ditrun and of what it uses",
		description: "Without libtorch it prints the rest and says so;\n" +
			"`ditrun doctor` then tells what to do.",
		example: "ditrun version --json",
		run:     runVersion,
	})
}

func runVersion(e *env) error {
	v := versionResult{Versions: readVersion(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	libtorch, cuda := "not found: see `ditrun doctor`", "no"
	if err := torch.Available(); err != nil {
		v.LibtorchError = err.Error()
	} else {
		v.Libtorch = libtorchVersion()
		libtorch = v.Libtorch
		n, why := torch.CUDAStatus()
		v.CUDA, v.CUDADevices = n > 0, n
		if why != nil {
			v.CUDAWhyNot = why.Error()
			cuda = "no: " + why.Error()
		} else {
			cuda = plural(n, "device")
		}
	}
	if e.json {
		return e.result(v)
	}
	w := columns{w: e.stdout}
	w.row("ditrun", v.Ditrun)
	if v.GitRevision != "" {
		modified := ""
		if v.GitModified {
			modified = ", with changes"
		}
		w.row("revision", v.GitRevision+modified)
	}
	w.row("go", v.Go+" "+v.OS+"/"+v.Arch)
	w.text("libtorch", libtorch)
	w.text("cuda", cuda)
	return w.err
}

// libtorchVersion is torch.BuildInfo without the name that the label beside it
// repeats.
func libtorchVersion() string {
	return strings.TrimPrefix(torch.BuildInfo(), "libtorch ")
}
