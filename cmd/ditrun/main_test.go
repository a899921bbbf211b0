package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ditrun/ditrun/internal/testtool"
	"github.com/ditrun/ditrun/torch"
)

// asDitrun in the environment makes the test binary behave as ditrun: signals and limits of the
// system need a process of their own.
const asDitrun = "DITRUN_TEST_AS_MAIN"

var scratch string // removed at the end

func TestMain(m *testing.M) {
	if os.Getenv(asDitrun) != "" {
		main()
	}
	var err error
	if scratch, err = os.MkdirTemp("", "ditrun-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

func needTorch(t *testing.T) {
	t.Helper()
	if err := torch.Available(); err != nil {
		testtool.Missing(t, "libtorch is not there: ", err)
	}
}

// An outcome is what a command line came to.
type outcome struct {
	code           int
	stdout, stderr string
}

// ditrun runs a command line in this process, on one thread of the CPU.
func ditrun(t *testing.T, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), append([]string{"ditrun", "--device", "cpu", "--threads", "1"}, args...), &stdout, &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

// mustRun is ditrun for command lines that work.
func mustRun(t *testing.T, args ...string) outcome {
	t.Helper()
	o := ditrun(t, args...)
	if o.code != 0 || strings.Contains(o.stderr, "ditrun:") {
		t.Fatalf("ditrun %s: code %d\n%s%s", strings.Join(args, " "), o.code, o.stdout, o.stderr)
	}
	return o
}

// refused checks that an outcome is a failure in the house form: one line for the error, at most one
// for a hint, no stack, and all of the given texts in it.
func (o outcome) refused(t *testing.T, code int, texts ...string) {
	t.Helper()
	var said []string
	for line := range strings.Lines(o.stderr) {
		if strings.HasPrefix(line, "ditrun: ") && !strings.HasPrefix(line, "ditrun: stopping;") {
			said = append(said, line)
		}
	}
	ok := o.code == code && (len(said) == 1 || len(said) == 2 && strings.HasPrefix(said[1], "ditrun: hint: ")) &&
		strings.HasPrefix(said[0], "ditrun: error: ")
	for _, bad := range []string{"goroutine", "panic", "internal:", ".go:", "\n  "} {
		ok = ok && !strings.Contains(o.stderr, bad)
	}
	for _, text := range texts {
		ok = ok && strings.Contains(strings.Join(said, ""), text)
	}
	for _, line := range said {
		ok = ok && len(line) < 1200
	}
	if !ok {
		t.Errorf("code %d, errors\n%swant code %d, one error and at most a hint, with %q", o.code, o.stderr, code,
			texts)
	}
}

// A process is a ditrun of its own whose output this process reads line by line.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	pipe   *os.File
	lines  *bufio.Reader
	seen   []string
	stderr errorLines
}

// errorLines may be read while a process writes them.
type errorLines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (e *errorLines) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.text.Write(p)
}

func (e *errorLines) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.text.String()
}

// command returns a command line as a process of its own; shell, if not empty, runs it: "$@".
func command(t *testing.T, shell string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := append([]string{self, "--device", "cpu", "--threads", "1"}, args...)
	if shell != "" {
		argv = append([]string{"sh", "-c", shell, "sh"}, argv...)
	}
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), asDitrun+"=1")
	return cmd
}

// start starts a process that does not get ahead: of its lines one fits into the pipe, so that the second one after
// that which until found waits until somebody reads. Whatever else the machine does, it is there.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	return startWith(t, func(w *os.File) error {
		_, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096)
		if err == nil { // each write takes a page
			_, err = unix.FcntlInt(w.Fd(), unix.F_SETFL, unix.O_DIRECT)
		}
		return err
	}, args...)
}

// startFree starts a process whose lines wait for nobody.
func startFree(t *testing.T, args ...string) *process {
	t.Helper()
	return startWith(t, func(*os.File) error { return nil }, args...)
}

func startWith(t *testing.T, prepare func(w *os.File) error, args ...string) *process {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := prepare(w); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: command(t, "", args...), pipe: r, lines: bufio.NewReaderSize(r, 1<<16)}
	p.cmd.Stdout, p.cmd.Stderr = w, &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() { r.Close() })
	return p
}

// until reads the output up to a line that contains text.
func (p *process) until(text string) {
	p.t.Helper()
	for {
		line, err := p.lines.ReadString('\n')
		if err != nil {
			p.t.Fatalf("no line with %q: %v, %v\n%s\n%s", text, err, p.cmd.Wait(), strings.Join(p.seen, "\n"),
				p.stderr.String())
		}
		p.seen = append(p.seen, strings.TrimSuffix(line, "\n"))
		if strings.Contains(line, text) {
			return
		}
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// wait waits for the end of the process, which it ends where that does not come.
func (p *process) wait() outcome {
	p.t.Helper()
	defer time.AfterFunc(2*time.Minute, func() { p.cmd.Process.Kill() }).Stop()
	rest, _ := io.ReadAll(p.lines)
	p.cmd.Wait()
	return outcome{p.cmd.ProcessState.ExitCode(), strings.Join(p.seen, "\n") + "\n" + string(rest), p.stderr.String()}
}

// waitFor waits until something is at path.
func waitFor(t *testing.T, path string) {
	t.Helper()
	waitUntil(t, path+" is there", func() bool { return exists(path) })
}

// waitUntil waits until something is so.
func waitUntil(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute it is not so that %s", what)
		}
	}
}

// writeIDX writes n gray pictures of four classes, side pixels a side.
func writeIDX(t *testing.T, dir string, n, side int) {
	t.Helper()
	var pix, labels []byte
	for i := range n {
		for y := range side {
			for x := range side {
				v := [4]int{x * 255 / side, y * 255 / side, (x + i/4) % 4 / 2 * 255, (x - y) * (x - y + i%3) * 20}[i%4]
				pix = append(pix, byte(min(max(v, 0), 255)))
			}
		}
		labels = append(labels, byte(i%4))
	}
	head := func(dims ...uint32) (b []byte) {
		for _, d := range dims {
			b = binary.BigEndian.AppendUint32(b, d)
		}
		return b
	}
	write(t, filepath.Join(dir, "train-images-idx3-ubyte"),
		append(head(0x803, uint32(n), uint32(side), uint32(side)), pix...))
	write(t, filepath.Join(dir, "train-labels-idx1-ubyte"), append(head(0x801, uint32(n)), labels...))
	write(t, filepath.Join(dir, "classes.txt"), []byte("ramp\nslope\nstripes\nvalley\n"))
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o666); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// list names what is below dir, links and folders included, sorted.
func list(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if path != dir {
			rel, _ := filepath.Rel(dir, path)
			names = append(names, rel)
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// equalFiles compares the named files of two folders byte for byte.
func equalFiles(t *testing.T, a, b string, names ...string) {
	t.Helper()
	for _, name := range names {
		if !bytes.Equal(read(t, filepath.Join(a, name)), read(t, filepath.Join(b, name))) {
			t.Errorf("%s differs between %s and %s", name, a, b)
		}
	}
}

// copyOf copies the folder dir into a new one, to be damaged.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(dir))
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// A road is what the commands made, one after the other, on pictures made here.
type road struct {
	pictures, vae, latents, run string
}

var (
	roadOnce sync.Once
	made     road
)

var (
	vaeFlags = []string{"--image-size", "8", "--downsample", "2", "--block-out-channels", "8,8", "--norm-num-groups",
		"4", "--max-steps", "6", "--log-every", "2"}
	trainFlags = []string{"--model", "DiT-16x1x2/2", "--global-batch-size", "16", "--lr", "1e-3", "--ema-decay", "0.5"}
)

// theRoad makes the road once. Tests read it only.
func theRoad(t *testing.T) road {
	t.Helper()
	needTorch(t)
	roadOnce.Do(func() {
		r := road{}
		for name, p := range map[string]*string{"pictures": &r.pictures, "vae": &r.vae, "latents": &r.latents,
			"run": &r.run} {
			*p = filepath.Join(scratch, name)
		}
		writeIDX(t, r.pictures, 64, 8)
		mustRun(t, slices.Concat([]string{"train-vae", "--data", r.pictures, "--out", r.vae}, vaeFlags)...)
		mustRun(t, "encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", r.latents)
		mustRun(t, r.train("--run-dir", r.run, "--max-steps", "6", "--log-every", "2", "--ckpt-every", "4",
			"--sample-every", "4", "--vae", r.vae)...)
		made = r
	})
	if made.run == "" {
		t.Fatal("the commands failed in an earlier test")
	}
	return made
}

// train returns a training command line on the latents of the road.
func (r road) train(more ...string) []string {
	return slices.Concat([]string{"train", "--data", r.latents}, trainFlags, more)
}

// sample returns a sampling command line with the models of the road.
func (r road) sample(out string, more ...string) []string {
	return slices.Concat([]string{"sample", "--ckpt", r.run, "--vae", r.vae, "--num-sampling-steps", "5", "--out", out},
		more)
}

// interrupts are the signals that stop a command.
var interrupts = []syscall.Signal{syscall.SIGINT, syscall.SIGTERM}
