package main

import (
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// count counts a fault of a kind.
func (s *soak) count(kind, format string, args ...any) {
	s.faults++
	s.counts[kind]++
	s.tell(kind+" "+format, args...)
}

// fault does something to the run; before it trains, only a signal: files that cannot be had then are an error.
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
