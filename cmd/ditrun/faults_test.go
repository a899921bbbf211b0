package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ditrun/ditrun/internal/disk"
)

// TestTrainingUnderFaults: whatever happens to the files, the clients and the process of a run, it is only ever ended
// by a signal or a closed pipe, goes on with --resume auto, and comes to its last step with the bytes of a run that
// nothing happened to. What a fault finds at its moment is left to chance, so faults that cannot be made are passed over.
//
// DITRUN_SOAK=1 does this run after run for DITRUN_SOAK_MINUTES (30). DITRUN_SOAK_SEED repeats the faults of an earlier
// test, though not their moments.
func TestTrainingUnderFaults(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small file system and to make folders immutable")
	}
	r := theRoad(t)
	numSteps, until := 600, time.Time{}
	more := func(s *soak) bool { return s.faults < 8 }
	if os.Getenv("DITRUN_SOAK") != "" {
		numSteps, until = 5000, time.Now().Add(minutes(t, "DITRUN_SOAK_MINUTES", 30))
		more = func(*soak) bool { return time.Now().Before(until) }
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("DITRUN_SOAK_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal("DITRUN_SOAK_SEED: ", err)
		}
	}
	flags := []string{"train", "--data", r.latents, "--vae", r.vae, "--model", "DiT-32x1x2/2", "--ema-decay", "0.9",
		"--global-batch-size", "16", "--max-grad-norm", "1", "--log-every", "10", "--sample-every", "60",
		"--ckpt-every", "25", "--keep-last", "4", "--max-steps", strconv.Itoa(numSteps)}
	undisturbed := filepath.Join(t.TempDir(), "undisturbed")
	mustRun(t, append(slices.Clone(flags), "--run-dir", undisturbed)...)

	dir := t.TempDir()
	smallDisk(t, dir)
	for ; ; seed++ {
		s := &soak{t: t, rnd: rand.New(rand.NewPCG(seed, 0)), disk: dir, run: filepath.Join(dir, "run"),
			flags: flags, more: more, counts: map[string]int{}}
		lives := 1
		for !s.life() && !t.Failed() {
			lives++
		}
		t.Logf("seed %d: %d processes, faults %v", seed, lives, s.counts)
		for _, line := range s.story {
			if strings.Contains(line, "has come into the place of") || strings.Contains(line, "save checkpoint") {
				t.Log(line)
			}
		}
		if t.Failed() {
			t.Fatal(strings.Join(s.story, "\n"))
		}
		last := filepath.Join("checkpoints", fmt.Sprintf("%07d", numSteps))
		equalFiles(t, filepath.Join(undisturbed, last), filepath.Join(s.run, last), checkpointFiles...)
		for _, name := range list(t, s.run) {
			if disk.IsTemporary(filepath.Base(name)) {
				t.Errorf("%s is left behind", name)
			}
		}
		if t.Failed() || time.Now().After(until) {
			return
		}
		if err := os.RemoveAll(s.run); err != nil {
			t.Fatal(err)
		}
	}
}

// minutes reads a number of minutes from the environment.
func minutes(t *testing.T, name string, otherwise float64) time.Duration {
	t.Helper()
	n := otherwise
	if text := os.Getenv(name); text != "" {
		var err error
		if n, err = strconv.ParseFloat(text, 64); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return time.Duration(n * float64(time.Minute))
}

// smallDisk mounts a file system of 8 MiB at dir which this goroutine and the processes it starts have to themselves.
func smallDisk(t *testing.T, dir string) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread, and what is mounted, end with the test
	if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
		t.Skip("unshare: ", err)
	}
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Skip("mount: ", err)
	}
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skip("mount: ", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// A soak is a run under faults.
type soak struct {
	t      *testing.T
	rnd    *rand.Rand
	disk   string // the folder in which a small file system is mounted
	run    string // the run folder, on it
	flags  []string
	more   func(*soak) bool // faults are to come
	faults int              // so far
	counts map[string]int   // by kind
	story  []string

	cmd     *exec.Cmd
	output  *os.File // what the process prints
	metrics string   // the address of its metrics
	clients []net.Conn
	heal    []func()  // end the conditions that hold
	hurt    time.Time // when one held last
	sent    syscall.Signal
	cut     bool // its output is closed
}

// life runs the command until it ends and says whether the run is done.
func (s *soak) life() bool {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.metrics = l.Addr().String()
	l.Close()
	s.sent, s.cut = 0, false
	s.cmd = command(s.t, "", slices.Concat(s.flags,
		[]string{"--run-dir", s.run, "--resume", "auto", "--metrics-addr", s.metrics})...)
	var stderr bytes.Buffer
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	s.output = r
	s.cmd.Stdout, s.cmd.Stderr = w, &stderr
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	w.Close()
	var lines, done atomic.Int64
	go func() {
		for scan := bufio.NewScanner(r); scan.Scan(); lines.Add(1) {
			if scan.Text() == "Done!" {
				done.Store(1)
			}
		}
	}()
	ended := make(chan struct{})
	go func() {
		s.cmd.Wait()
		close(ended)
	}()
	wait := func(d time.Duration) bool {
		select {
		case <-ended:
			return true
		case <-time.After(d):
			return false
		}
	}
	for {
		if s.sent != 0 || !s.more(s) {
			if !wait(time.Duration(s.rnd.IntN(3000)) * time.Millisecond) {
				s.healAll()
			}
			if !wait(2 * time.Minute) {
				s.cmd.Process.Signal(syscall.SIGQUIT)
				<-ended
				s.t.Errorf("the process does not end\n%s", tail(stderr.Bytes(), 20_000))
			}
			break
		}
		if wait(time.Duration(s.rnd.IntN(600)) * time.Millisecond) {
			break
		}
		// Half of the conditions end before the next begins.
		if len(s.heal) > 0 && s.rnd.IntN(2) == 0 {
			s.healAll()
			continue
		}
		s.fault(lines.Load() > 0)
	}
	for _, c := range s.clients {
		c.Close()
	}
	s.clients = nil
	r.Close()
	s.healAll()
	code := s.cmd.ProcessState.ExitCode()
	s.tell("ended: code %d after signal %d, output closed %v: %s", code, s.sent, s.cut, tail(stderr.Bytes(), 600))
	text := stderr.String()
	for _, bad := range []string{"panic", "goroutine ", "internal:"} {
		if strings.Contains(text, bad) {
			s.t.Errorf("the process crashed: code %d\n%s", code, text)
		}
	}
	// The checkpoint with which a process ends may not find its folder in order in time, and then says so.
	ends := s.sent != 0 || s.cut || strings.Contains(text, "save checkpoint of step "+s.flags[len(s.flags)-1]+":")
	unsaved := ends && code == exitFailed && time.Since(s.hurt) < time.Minute &&
		strings.Contains(text, "ditrun: error: save checkpoint of step ")
	switch {
	case unsaved || s.sent == syscall.SIGKILL:
	case s.sent == 0 && !s.cut:
		if code != 0 || done.Load() == 0 {
			s.t.Errorf("the process ended by itself with code %d\n%s", code, text)
		}
	case s.sent == syscall.SIGINT:
		if code != exitInterrupted && done.Load() == 0 {
			s.t.Errorf("code %d after SIGINT\n%s", code, text)
		}
	case code == exitInterrupted && strings.Contains(text, "interrupted"): // before it trained there was nothing to save
	case code != 0:
		s.t.Errorf("code %d after signal %v, output closed %v\n%s", code, s.sent, s.cut, text)
	}
	if !s.t.Failed() {
		s.damage()
	}
	return done.Load() != 0
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// tell notes what happens.
func (s *soak) tell(format string, args ...any) {
	s.story = append(s.story, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

func (s *soak) healAll() {
	for _, end := range slices.Backward(s.heal) {
		end()
	}
	if len(s.heal) > 0 {
		s.hurt = time.Now()
		s.tell("healed")
	}
	s.heal = nil
}

// count counts a fault of a kind.
func (s *soak) count(kind, format string, args ...any) {
	s.faults++
	s.counts[kind]++
	s.tell(kind+" "+format, args...)
}

// fault does something to the run. Before it trains there is nothing to be ended for but signals.
func (s *soak) fault(trains bool) {
	if !trains {
		if s.rnd.IntN(10) == 0 {
			s.signal()
		}
		return
	}
	switch s.rnd.IntN(12) {
	case 0:
		s.signal()
	case 1:
		s.fillDisk()
	case 2, 3:
		s.freeze([]string{"", "samples", "checkpoints"}[s.rnd.IntN(3)])
	case 4:
		s.replaceByFile([]string{"samples", "checkpoints"}[s.rnd.IntN(2)])
	case 5:
		s.replaceByFolder("loss.png")
	case 6, 7:
		s.remove()
	case 8:
		s.replaceLatest()
	case 9:
		s.openClients()
	case 10:
		s.move()
	case 11:
		if s.rnd.IntN(3) > 0 {
			s.pause()
			return
		}
		s.cut = true // the process notices at its next line
		s.output.Close()
		s.count("pipe closed", "")
	}
}

func (s *soak) signal() {
	signals := []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGKILL, syscall.SIGKILL}
	sig := signals[s.rnd.IntN(len(signals))]
	if signal.Ignored(sig) { // in the background, or under nohup
		sig = syscall.SIGTERM
	}
	s.sent = sig
	s.count(unix.SignalName(s.sent), "")
	s.cmd.Process.Signal(s.sent)
}

// fillDisk leaves no room on the file system.
func (s *soak) fillDisk() {
	path := filepath.Join(s.disk, "ballast")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		s.tell("no room for the ballast itself: %v", err)
		return
	}
	defer f.Close()
	size := int64(0)
	for block := make([]byte, 4096); err == nil; size += 4096 {
		_, err = f.Write(block)
	}
	s.count("disk full", "%d bytes", size)
	s.heal = append(s.heal, func() { os.Remove(path) })
}

// freeze lets nothing be made, renamed or removed in a folder of the run: root does not heed modes.
func (s *soak) freeze(name string) {
	f, err := os.Open(filepath.Join(s.run, name))
	if err != nil {
		return
	}
	const immutable = 0x10 // FS_IMMUTABLE_FL
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|immutable)
	}
	if err != nil {
		f.Close()
		s.tell("%s cannot be made immutable: %v", name, err)
		return
	}
	s.count("read-only", "%q", name)
	s.heal = append(s.heal, func() {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^immutable)
		f.Close()
	})
}

// replaceByFile puts a file in the place of a folder of the run, for a while.
func (s *soak) replaceByFile(name string) {
	path, away := filepath.Join(s.run, name), filepath.Join(s.disk, "away-"+name)
	if os.Rename(path, away) != nil {
		return
	}
	_ = os.WriteFile(path, nil, 0o666)
	s.count("a file for a folder", "%s", name)
	s.heal = append(s.heal, func() {
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
			os.Remove(path)
		}
		if err := os.Rename(away, path); err != nil {
			s.merge(away, path)
		}
	})
}

// merge moves what a folder holds to another that came into its place, where that lacks it.
func (s *soak) merge(from, to string) {
	entries, err := os.ReadDir(from)
	s.tell("%s has come into the place of %s: %d entries are moved (%v)", to, from, len(entries), err)
	for _, e := range entries {
		_ = os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name()))
	}
	_ = os.RemoveAll(from)
}

// replaceByFolder puts a folder with something in it in the place of a file, for ever.
func (s *soak) replaceByFolder(name string) {
	path := filepath.Join(s.run, name)
	os.Remove(path)
	if os.MkdirAll(filepath.Join(path, "x"), 0o777) == nil {
		s.count("a folder for a file", "%s", name)
	}
}

// remove removes records of the run, cuts one short or writes nonsense into it.
func (s *soak) remove() {
	names := []string{"log.jsonl", "log.txt", "run.json", "config.yaml", "loss.png", "events*"}
	name := names[s.rnd.IntN(len(names))]
	paths, err := filepath.Glob(filepath.Join(s.run, name))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, path := range paths {
		switch s.rnd.IntN(3) {
		case 0:
			_ = os.Remove(path)
		case 1:
			if info, err := os.Stat(path); err == nil {
				_ = os.Truncate(path, info.Size()/2)
			}
		case 2:
			if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
				f.Write([]byte("\x00{nonsense\n"))
				f.Close()
			}
		}
	}
	if len(paths) > 0 {
		s.count("record damaged", "%s", name)
	}
}

func (s *soak) replaceLatest() {
	path := filepath.Join(s.run, "checkpoints", "latest")
	os.RemoveAll(path)
	kind := s.rnd.IntN(4)
	switch kind {
	case 0:
		_ = os.WriteFile(path, []byte("nonsense"), 0o666)
	case 1:
		_ = os.MkdirAll(filepath.Join(path, "x"), 0o777)
	case 2:
		_ = os.Symlink("nowhere", path)
	}
	s.count("latest replaced", "%s", []string{"file", "folder", "link to nowhere", "nothing"}[kind])
}

// openClients connects to the metrics without asking for anything, or for half of it.
func (s *soak) openClients() {
	for range 1 + s.rnd.IntN(40) {
		c, err := net.DialTimeout("tcp", s.metrics, time.Second)
		if err != nil {
			break
		}
		if s.rnd.IntN(2) == 0 {
			_, _ = c.Write([]byte("GET /metrics HTTP/1.1\r\nHo"))
		}
		s.clients = append(s.clients, c)
	}
	s.count("clients", "%d", len(s.clients))
}

// move moves the run folder, for a while.
func (s *soak) move() {
	away := filepath.Join(s.disk, "moved")
	if os.Rename(s.run, away) != nil {
		return
	}
	s.count("run moved", "")
	s.heal = append(s.heal, func() {
		for os.Rename(away, s.run) != nil && exists(away) { // what was under way may have made part of it anew
			for _, name := range []string{"checkpoints", "samples"} {
				if path := filepath.Join(s.run, name); exists(path) {
					s.merge(path, filepath.Join(away, name))
				}
			}
			s.merge(s.run, away)
		}
	})
}

// pause stops the process for a moment.
func (s *soak) pause() {
	s.count("paused", "")
	s.cmd.Process.Signal(syscall.SIGSTOP)
	time.Sleep(time.Duration(s.rnd.IntN(300)) * time.Millisecond)
	s.cmd.Process.Signal(syscall.SIGCONT)
}

// damage does something to the files of a run that does not run.
func (s *soak) damage() {
	switch s.rnd.IntN(6) {
	case 0:
		s.replaceLatest()
	case 1:
		s.remove()
	case 2: // the newest checkpoint, where there is another
		dirs, err := filepath.Glob(filepath.Join(s.run, "checkpoints", "0*"))
		if err != nil {
			s.t.Fatal(err)
		}
		if len(dirs) < 2 {
			return
		}
		slices.Sort(dirs)
		path := filepath.Join(dirs[len(dirs)-1], checkpointFiles[s.rnd.IntN(len(checkpointFiles))])
		if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
			b[s.rnd.IntN(len(b))] ^= 1 << s.rnd.IntN(8)
			_ = os.WriteFile(path, b, 0o666)
			s.count("bit flipped", "%s", path)
		}
	}
}
