package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/machine"
	"github.com/ditrun/ditrun/diffusion/runs"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
)

// doctorOptions are the flags of doctor.
type doctorOptions struct{ noTest bool }

func (o *doctorOptions) flags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "no-test", Destination: &o.noTest, DisableDefaultText: true,
			Usage: "only look, run no tests"},
	}
}

func doctorCommand() *cli.Command {
	o := &doctorOptions{}
	return newCommand(spec{
		name:  "doctor",
		usage: "show what is installed and what is missing, and test it",
		description: "Prints what was found, then computes for some seconds on the device:\n" +
			"a matrix product, a small training run, random numbers. The exit code\n" +
			"is 1 when something that is needed is missing or a test fails; each\n" +
			"problem comes with what to do.",
		example: "ditrun doctor\nditrun doctor --device cuda --json",
		flags:   o.flags(),
		run:     func(e *env) error { return runDoctor(e, o) },
	})
}

// A diagnosis is what doctor found; with --json it is the result.
type diagnosis struct {
	OK       bool          `json:"ok"`
	Problems []problem     `json:"problems"`
	Versions runs.Versions `json:"versions"`
	Libtorch struct {
		Path  string `json:"path,omitempty"`
		Shim  string `json:"shim,omitempty"`
		Error string `json:"error,omitempty"`
	} `json:"libtorch"`
	CUDA struct {
		Devices int    `json:"devices"`
		WhyNot  string `json:"why_not,omitempty"`
		Driver  string `json:"driver,omitempty"`
	} `json:"cuda"`
	Plugin struct { // libditcuda.so
		Kernels   bool   `json:"kernels"`
		NoKernels string `json:"no_kernels,omitempty"` // why not
		WhyNot    string `json:"why_not,omitempty"`
	} `json:"plugin"`
	NCCL struct {
		Version string `json:"version,omitempty"`
		WhyNot  string `json:"why_not,omitempty"`
	} `json:"nccl"`
	Device string `json:"device,omitempty"`
	// Attention is by precision, for the models of the paper.
	Attention   map[string]string `json:"attention,omitempty"`
	Environment map[string]string `json:"environment"`
	Threads     int               `json:"threads,omitempty"`
	CPU         machine.CPU       `json:"cpu"`
	Memory      machine.Memory    `json:"memory"`
	Disks       []freeSpace       `json:"disks"`
	Tools       []tool            `json:"tools"`
	SelfTest    []testResult      `json:"self_test,omitempty"`
}

type problem struct {
	Text string `json:"text"`
	Hint string `json:"hint"`
}

type freeSpace struct {
	Path string `json:"path"`
	Free int64  `json:"free_bytes"` // -1: unknown
}

type tool struct {
	Name    string `json:"name"`
	Version string `json:"version"` // "" when it is not installed
	For     string `json:"for"`
}

// little is the free disk space below which a run is likely to end badly: a
// checkpoint of DiT-XL/2 is 10 GB.
const little = 2e9

func runDoctor(e *env, o *doctorOptions) error {
	var d diagnosis
	d.Versions = readVersion()
	d.CPU, d.Memory = machine.ReadCPU(), machine.ReadMemory()
	d.Disks = disks()
	d.Tools = tools(e.ctx)
	d.CUDA.Driver = machine.NVIDIADriver()
	d.Environment = readEnvironment()
	d.Problems = []problem{}
	dev, usable := d.findDevice(e)
	for _, at := range d.Disks {
		if at.Free >= 0 && at.Free < little {
			d.problem(fmt.Sprintf("only %s free in %s", format.Bytes(at.Free), at.Path),
				"make room, or work in another folder")
		}
	}
	d.print(e)
	if usable && !o.noTest {
		if err := d.test(e, dev); err != nil {
			return err
		}
	}
	d.OK = len(d.Problems) == 0
	if err := e.result(d); err != nil {
		return err
	}
	if d.OK {
		e.printf("")
		e.printf("All is well.")
		return nil
	}
	for _, p := range d.Problems[1:] {
		e.warn("%s: %s", p.Text, p.Hint)
	}
	return withHint(errors.New(d.Problems[0].Text), "%s", d.Problems[0].Hint)
}

func (d *diagnosis) problem(text, hint string) {
	d.Problems = append(d.Problems, problem{text, hint})
}

// findDevice opens libtorch and the device; false when there is none to test.
func (d *diagnosis) findDevice(e *env) (torch.Device, bool) {
	if err := torch.Available(); err != nil {
		d.Libtorch.Error = err.Error()
		const why = "libtorch is not loaded"
		d.CUDA.WhyNot, d.Plugin.WhyNot, d.NCCL.WhyNot = why, why, why
		hint := "`make build` also fetches libtorch; with LIBTORCH=FOLDER it uses the torch 2.9, 2.10 or 2.11 there"
		if os.Getenv(torch.LibraryVar) != "" {
			hint = "without " + torch.LibraryVar + " it is looked for beside the program and where it was built"
		}
		d.problem(err.Error(), hint)
		return torch.Device{}, false
	}
	d.Versions.Libtorch = libtorchVersion()
	d.Libtorch.Path, d.Libtorch.Shim = machine.LoadedLibrary("libtorch_cpu.so"), torch.Library()
	n, why := torch.CUDAStatus()
	d.CUDA.Devices = n
	if why != nil {
		d.CUDA.WhyNot = why.Error()
	}
	if n == 0 && d.CUDA.Driver != "" {
		e.warn("an NVIDIA driver (%s) is installed but CUDA is not usable: %s", d.CUDA.Driver, d.CUDA.WhyNot)
	}
	version, why := dist.NCCLVersion()
	d.NCCL.Version = version
	if why != nil {
		d.NCCL.WhyNot = why.Error()
	}
	dev, err := e.openDevice()
	if err != nil {
		d.problem(err.Error(), "--device cpu works everywhere")
		return dev, false
	}
	d.findPlugin(dev)
	d.Device, d.Threads = dev.String(), torch.NumThreads()
	d.Attention = map[string]string{}
	for precision, dt := range map[string]torch.DType{"fp32": torch.Float32, "bf16": torch.BFloat16} {
		if d.Attention[precision], err = dit.XL2.AttentionBackend(dev, dt); err != nil {
			d.problem(err.Error(), "the self-test may say more")
			return dev, true
		}
	}
	return dev, true
}

// findPlugin asks what libditcuda.so does for dev or, on the CPU, would do for the first GPU.
func (d *diagnosis) findPlugin(dev torch.Device) {
	if !dev.IsCUDA() {
		dev = torch.CUDA(0)
	}
	why, noKernels := torch.PluginStatus(dev)
	if why != nil {
		d.Plugin.WhyNot = why.Error()
	}
	if d.Plugin.Kernels = noKernels == nil; !d.Plugin.Kernels && why == nil {
		d.Plugin.NoKernels = noKernels.Error()
	}
}

func disks() []freeSpace {
	cwd, err := os.Getwd()
	if err != nil {
		cwd = "."
	}
	all := []freeSpace{{cwd, disk.Free(cwd)}}
	if tmp := os.TempDir(); tmp != cwd {
		all = append(all, freeSpace{tmp, disk.Free(tmp)})
	}
	return all
}

// tools are what building needs; a built ditrun needs none of them.
func tools(ctx context.Context) []tool {
	list := []tool{
		{Name: "go", For: "building"},
		{Name: "cmake", For: "building"},
		{Name: "g++", For: "building"},
		{Name: "python3", For: "fetching libtorch"},
		{Name: "nvcc", For: "building CUDA kernels"},
	}
	for i := range list {
		list[i].Version = toolVersion(ctx, list[i].Name)
	}
	return list
}

var versionNumber = regexp.MustCompile(`\d+\.\d+(\.\d+)?`)

func toolVersion(ctx context.Context, name string) string {
	arg := "--version"
	if name == "go" {
		arg = "version"
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, arg).Output()
	if err != nil {
		return ""
	}
	if name == "nvcc" { // the release stands in the fourth line, after a date
		_, out, _ = bytes.Cut(out, []byte("release "))
	}
	if v := versionNumber.Find(out); v != nil {
		return string(v)
	}
	return "found"
}

// print writes what was found as a table.
func (d *diagnosis) print(e *env) {
	var b strings.Builder
	w := columns{w: &b}
	w.row("ditrun", d.Versions.Ditrun+", "+d.Versions.Go+" "+runtime.GOOS+"/"+runtime.GOARCH)
	if d.Libtorch.Error == "" {
		w.row("libtorch", d.Versions.Libtorch+"\n"+known(d.Libtorch.Path))
	} else {
		w.text("libtorch", "MISSING: "+d.Libtorch.Error)
	}
	cuda := plural(d.CUDA.Devices, "device")
	if d.CUDA.WhyNot != "" {
		cuda = "no: " + d.CUDA.WhyNot
	}
	driver := "no NVIDIA driver"
	if d.CUDA.Driver != "" {
		driver = "NVIDIA driver " + d.CUDA.Driver
	}
	w.text("cuda", cuda)
	w.row("", driver)
	switch {
	case d.CUDA.Devices == 0: // it would not be used
	case d.Plugin.WhyNot != "":
		w.text("plugin", "no: "+d.Plugin.WhyNot)
		w.row("", "without CUDA graphs and kernels, small batches are slow")
	case d.Plugin.Kernels:
		w.row("plugin", "libditcuda.so, with kernels")
	default:
		w.text("plugin", "libditcuda.so, without kernels: "+d.Plugin.NoKernels)
		w.row("", "without kernels some operations are slower")
	}
	if d.NCCL.WhyNot == "" {
		w.row("nccl", d.NCCL.Version)
	} else {
		w.text("nccl", "no: "+d.NCCL.WhyNot)
		w.row("", "training on several GPUs needs it")
	}
	if d.Device != "" {
		w.row("device", d.Device)
		w.row("attention", fmt.Sprintf("%s in fp32 and tf32, %s in bf16", known(d.Attention["fp32"]),
			known(d.Attention["bf16"])))
		w.row("threads", plural(d.Threads, "thread")+" for "+plural(d.CPU.Cores, "core"))
	}
	w.row("environment", describeEnvironment(d.Environment))
	w.text("cpu", d.CPU.Model+": "+known(strings.Join(d.CPU.Features, " ")))
	w.row("memory", fmt.Sprintf("%s, %s available", format.Bytes(d.Memory.Total), format.Bytes(d.Memory.Available)))
	for _, at := range d.Disks {
		free := "unknown"
		if at.Free >= 0 {
			free = format.Bytes(at.Free)
		}
		w.row("disk", fmt.Sprintf("%s free in %s", free, at.Path))
	}
	var found, missing []string
	for _, t := range d.Tools {
		if t.Version != "" {
			found = append(found, t.Name+" "+t.Version)
		} else {
			missing = append(missing, fmt.Sprintf("%s (for %s)", t.Name, t.For))
		}
	}
	w.text("tools", known(strings.Join(found, ", ")))
	if len(missing) > 0 {
		w.text("", "not found: "+strings.Join(missing, ", "))
	}
	for line := range strings.Lines(b.String()) {
		e.printf("%s", strings.TrimSuffix(line, "\n"))
	}
}

func known(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}
