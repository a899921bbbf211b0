package main

import (
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// writeTree writes a class folder tree of n small pictures, some of 16-bit gray.
func writeTree(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		var m interface {
			image.Image
			Set(x, y int, c color.Color)
		} = image.NewNRGBA(image.Rect(0, 0, 9+i, 8))
		if i%5 == 4 {
			m = image.NewGray16(m.Bounds())
		}
		for x := range 9 + i {
			for y := range 8 {
				m.Set(x, y, color.NRGBA{uint8(20*x + i), uint8(30 * y), uint8(i * 7), 255})
			}
		}
		path := filepath.Join(dir, []string{"n01440764", "n01443537"}[i%2], fmt.Sprintf("%02d.png", i))
		write(t, path, nil)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := png.Encode(f, m); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return dir
}

// TestEncodeBadPictures: a bad picture is named and ends the work after all others were looked at, or is left out.
func TestEncodeBadPictures(t *testing.T) {
	r := theRoad(t)
	pictures, out := writeTree(t, 12), filepath.Join(t.TempDir(), "latents")
	bad := []string{filepath.Join(pictures, "n01440764", "02.png"), filepath.Join(pictures, "n01443537", "07.png")}
	truncated(t, bad[0], 0.7)
	write(t, bad[1], []byte("not a picture at all"))
	args := []string{"encode-latents", "--data", pictures, "--vae", r.vae, "--out", out, "--image-size", "8"}
	o := ditrun(t, args...)
	for _, want := range []string{"pictures that cannot be decoded: 2\n    " + bad[0] + ": PNG: ",
		"\n    " + bad[1] + ": not a picture: starts with 6e 6f", "hint: --on-error skip leaves them out"} {
		if o.code != 1 || !strings.Contains(o.stderr, want) {
			t.Errorf("code %d, errors\n%swant %q", o.code, o.stderr, want)
		}
	}
	if got := list(t, out); len(got) != 0 {
		t.Errorf("left %q", got)
	}
	o = ditrun(t, append(args, "--on-error", "skip", "--json")...)
	var result struct{ Samples, Skipped int }
	if err := json.Unmarshal([]byte(o.stdout), &result); err != nil || o.code != 0 || result.Samples != 10 ||
		result.Skipped != 2 {
		t.Errorf("code %d, printed %q (%v), errors %s", o.code, o.stdout, err, o.stderr)
	}
	for _, want := range []string{"warning: left out: " + bad[0] + ": ", "2 bad pictures left out: " +
		filepath.Join(out, "manifest.json") + " lists them",
		"2 gray pictures of 16 bits: levels above 255 became 255"} {
		if !strings.Contains(o.stderr, want) {
			t.Errorf("errors\n%swant %q", o.stderr, want)
		}
	}
	var m struct {
		Skipped []struct {
			ID     int
			Name   string
			Reason string
		}
	}
	if err := json.Unmarshal(read(t, filepath.Join(out, "manifest.json")), &m); err != nil || len(m.Skipped) != 2 ||
		m.Skipped[1].Name != "07.png" || m.Skipped[1].ID != 9 {
		t.Errorf("the manifest lists %+v (%v)", m.Skipped, err)
	}
	// The set is whole now. That pictures are left out is said again.
	if o = ditrun(t, args...); o.code != 0 || !strings.Contains(o.stdout, "nothing is left to encode\n") ||
		!strings.Contains(o.stderr, "2 bad pictures left out") {
		t.Errorf("code %d: %s%s", o.code, o.stdout, o.stderr)
	}
}

// TestEncodeSourceVanishes: what cannot be read is no bad picture, even with --on-error skip; when it is back the work
// goes on.
func TestEncodeSourceVanishes(t *testing.T) {
	r := theRoad(t)
	pictures, out := writeTree(t, 12), filepath.Join(t.TempDir(), "latents")
	args := []string{"encode-latents", "--data", pictures, "--vae", r.vae, "--out", out, "--image-size", "8",
		"--on-error", "skip"}
	write(t, filepath.Join(out, theShard+".lock"), nil)
	release := hold(t, filepath.Join(out, theShard+".lock")) // until the source is open
	p := start(t, args...)
	p.until("data ")
	lost := filepath.Join(pictures, "n01443537")
	if err := os.Rename(lost, lost+"-away"); err != nil {
		t.Fatal(err)
	}
	release()
	p.wait().refused(t, 1, filepath.Join(lost, "01.png")+": no such file or folder", "hint: whole shards are kept")
	if got := list(t, out); len(got) != 0 {
		t.Errorf("left %q", got)
	}
	if err := os.Rename(lost+"-away", lost); err != nil {
		t.Fatal(err)
	}
	if o := ditrun(t, args...); o.code != 0 {
		t.Errorf("continued: %s", o.stderr)
	}
}

// TestEncodeReadOnly: a folder that cannot be written is said before the work.
func TestEncodeReadOnly(t *testing.T) {
	r := theRoad(t)
	out := t.TempDir()
	args := []string{"encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", filepath.Join(out, "latents")}
	if os.Geteuid() != 0 {
		if err := os.Chmod(out, 0o555); err != nil {
			t.Fatal(err)
		}
		ditrun(t, args...).refused(t, 1, out, "permission denied")
		return
	}
	if text, err := exec.Command("unshare", "-m", "mount", "-t", "tmpfs", "-o", "ro", "none",
		out).CombinedOutput(); err != nil {
		t.Skipf("no file system to mount: %v: %s", err, text)
	}
	for _, to := range []string{out, filepath.Join(out, "latents")} {
		args[len(args)-1] = to
		o := runShell(t, "exec unshare -m sh -c 'mount -t tmpfs -o ro none "+out+" || exit 99; exec \"$@\"' sh \"$@\"",
			args...)
		o.refused(t, 1, "--out "+to+": cannot be written: read-only file system")
		if strings.Contains(o.stderr, "encoder waits") {
			t.Errorf("it worked before it said so: %s", o.stderr)
		}
	}
}

// TestEncodeDamage: a byte that changed is found by --verify, and the shard is made again with the same bytes.
func TestEncodeDamage(t *testing.T) {
	r := theRoad(t)
	good := copyOf(t, r.latents)
	verify := func(dir string) outcome { return ditrun(t, "encode-latents", "--verify", "--out", dir) }
	if o := verify(good); o.code != 0 || !strings.Contains(o.stdout, "64 latents in 1 shard") ||
		!strings.Contains(o.stdout, "every checksum is right") {
		t.Errorf("code %d: %s%s", o.code, o.stdout, o.stderr)
	}
	shard := filepath.Join(good, theShard)
	b := read(t, shard)
	for _, at := range []int{4096, len(b) / 2} { // moments, and those of the mirrored pictures
		changed := slices.Clone(b)
		changed[at] ^= 4
		write(t, shard, changed)
		verify(good).refused(t, 1, "verify "+good+": "+theShard+": damaged: sha256 ",
			"delete the file and encode again")
	}
	os.Remove(shard)
	verify(good).refused(t, 1, theShard+": missing: encode again")
	mustRun(t, "encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", good)
	equalFiles(t, r.latents, good, theShard, "manifest.json")
	verify(t.TempDir()).refused(t, 1, "no manifest.json")
}

// TestEncodePreview: the sheet of crops is there before the work begins, in a folder that the work accepts.
func TestEncodePreview(t *testing.T) {
	r := theRoad(t)
	out := filepath.Join(t.TempDir(), "latents")
	o := mustRun(t, "encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", out, "--preview", "10")
	f, err := os.Open(filepath.Join(out, "preview.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if m, err := png.Decode(f); err != nil || m.Bounds().Dx() < 8*8 {
		t.Errorf("%v, error %v", m.Bounds(), err)
	}
	if !strings.Contains(o.stdout, "preview "+filepath.Join(out, "preview.png")) {
		t.Errorf("printed %s", o.stdout)
	}
	ditrun(t, "encode-latents", "--data", r.pictures, "--vae", r.vae, "--image-size", "4096", "--out",
		filepath.Join(t.TempDir(), "latents"), "--preview", "2").refused(t, 1,
		"--preview: 2 pictures of 4096x4096: a sheet, of at most 4096 pixels a side, holds 1")
	equalFiles(t, r.latents, out, theShard, "manifest.json")
}

// TestEncodeShares: processes of one launch know each other by their environment.
func TestEncodeShares(t *testing.T) {
	r := theRoad(t)
	for _, env := range []map[string]string{{"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
		{"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}} {
		t.Run("", func(t *testing.T) {
			for k, v := range env {
				t.Setenv(k, v)
			}
			out := filepath.Join(t.TempDir(), "latents")
			o := mustRun(t, "encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", out)
			if !strings.Contains(o.stdout, "process 1 of 2\n") {
				t.Errorf("printed %s", o.stdout)
			}
			equalFiles(t, r.latents, out, theShard, "manifest.json")
		})
	}
	t.Setenv("RANK", "2")
	t.Setenv("WORLD_SIZE", "2")
	ditrun(t, "encode-latents", "--data", r.pictures, "--vae", r.vae, "--out", t.TempDir()).refused(t, 2,
		"RANK=2 of WORLD_SIZE=2: ranks count from 0")
}

func TestClasses(t *testing.T) {
	r := theRoad(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"golden", "Retriever"}, "207  n02099601  golden retriever\n"},
		{[]string{"n01440764"}, "  0  n01440764  tench, Tinca tinca\n"},
		{[]string{"--data", r.latents}, "0  16 pictures  ramp\n1  16 pictures  slope\n" +
			"2  16 pictures  stripes\n3  16 pictures  valley\n64 pictures in 4 classes\n" +
			"every class has fewer than 20 pictures: a model will mostly repeat them\n"},
		{[]string{"--data", r.pictures, "sl"}, "1  16 pictures  slope\n"},
	} {
		if o := mustRun(t, append([]string{"classes"}, c.args...)...); o.stdout != c.want {
			t.Errorf("classes %q prints %q, want %q", c.args, o.stdout, c.want)
		}
	}
	tree := writeTree(t, 4)
	if o := mustRun(t, "classes", "--data", tree, "gold"); !strings.HasSuffix(o.stdout,
		" pictures  n01443537  goldfish, Carassius auratus\n") {
		t.Errorf("a folder of ImageNet's: %q", o.stdout)
	}
	ditrun(t, "classes", "unicorn").refused(t, 1, `no class of 1000 has "unicorn"`)
}
