package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestInspectLatents: a set of latents is described from its manifest alone.
func TestInspectLatents(t *testing.T) {
	r := theRoad(t)
	got := mustRun(t, "inspect", r.latents).stdout
	want := `^folder   LATENTS: latents, 1 shard, [\d.]+ kB
data     64 pictures in 4 classes
shape    4x4x4 F16 of 8-pixel pictures, as stored
views    plain and mirrored views
vae      \S+, sha256 [0-9a-f]{12}\.\.\.
scaling  factor [\d.]+, standard deviation after it 1\.\d\d \(want about 1\)
channels     mean      std  std x scaling
  0  ( +-?\d+\.\d+){3}
  1  ( +-?\d+\.\d+){3}
  2  ( +-?\d+\.\d+){3}
  3  ( +-?\d+\.\d+){3}
$`
	if !regexp.MustCompile(strings.ReplaceAll(want, "LATENTS", regexp.QuoteMeta(r.latents))).MatchString(got) {
		t.Errorf("printed\n%s", got)
	}
	copied := t.TempDir()
	text := read(t, filepath.Join(r.latents, "manifest.json"))
	text = regexp.MustCompile(`"scaling_factor": [\d.]+`).ReplaceAll(text, []byte(`"scaling_factor": 100`))
	text = regexp.MustCompile(`,\s*"sha256": "[0-9a-f]+"\s*}\s*$`).ReplaceAll(text, []byte("\n}"))
	write(t, filepath.Join(copied, "manifest.json"), text)
	o := ditrun(t, "inspect", copied)
	if o.code != 0 || !strings.Contains(o.stderr, " after scaling by 100, a DiT wants about 1: a scaling ") {
		t.Errorf("another scaling factor: code %d\n%s", o.code, o.stderr)
	}
	var in latentsInspection
	if err := json.Unmarshal([]byte(mustRun(t, "inspect", "--json", r.latents).stdout), &in); err != nil ||
		in.Family != "latents" || in.Samples != 64 || in.Classes != 4 || len(in.VAESHA256) != 64 || in.Bytes < 1000 {
		t.Errorf("%+v, error %v", in, err)
	}
}

// TestInspectPictures: folders and archives of pictures are described by their headers.
func TestInspectPictures(t *testing.T) {
	dir, about := writeAlbum(t)
	o := ditrun(t, "inspect", dir, "--image-size", "72")
	want := "pictures " + dir + `: 60 pictures in 6 classes of 10 each
formats  54 JPEG, 6 PNG
sizes    smallest 64x64, median 76x73, largest 93x95 (width x height)
crops    of 72 pixels: 28 are smaller and would be enlarged
turned   18 have an EXIF orientation: --orientation exif turns them upright
`
	if o.code != 0 || o.stdout != want {
		t.Errorf("code %d, printed\n%s%swant\n%s", o.code, o.stdout, o.stderr, want)
	}
	if !strings.HasPrefix(o.stderr, "ditrun: warning: "+dir+": left out: 2 hidden, ") {
		t.Errorf("errors\n%s", o.stderr)
	}
	var in picturesInspection
	o = ditrun(t, "inspect", "--json", dir)
	if err := json.Unmarshal([]byte(o.stdout), &in); err != nil || in.Pictures != 60 || in.Enlarged != 60 ||
		in.Oriented != 18 || in.Formats["PNG"] != 6 || len(in.Notes) != 1 {
		t.Errorf("%+v, error %v", in, err)
	}

	// What is no picture, or refused as class folders, is said.
	if err := os.Truncate(about.Truncated, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "videos"), 0o777); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "videos", "a.mov"), nil)
	o = ditrun(t, "inspect", dir)
	if o.code != 0 || !strings.Contains(o.stdout, "60 pictures without classes") ||
		!strings.Contains(o.stdout, "bad      "+about.Truncated+": empty file\n") ||
		!strings.Contains(o.stderr, `as class folders they are refused: open `+dir+`: class folder "videos" holds no`) {
		t.Errorf("code %d, printed\n%s%s", o.code, o.stdout, o.stderr)
	}
	if _, err := exec.LookPath("tar"); err == nil {
		path := packed(t, writeTree(t, 4), "pictures.tar")
		if o := ditrun(t, "inspect", path); !strings.Contains(o.stdout, "pictures "+path+": ") ||
			!strings.Contains(o.stdout, "formats  ") {
			t.Errorf("an archive: code %d\n%s%s", o.code, o.stdout, o.stderr)
		}
	}
	ditrun(t, "inspect", t.TempDir()).refused(t, 1, "no weights (", "latents or pictures (", "empty: ")
}

// TestSumOfData: --sha256 is for weights, and refused for what else inspect reads.
func TestSumOfData(t *testing.T) {
	r := theRoad(t)
	for path, holds := range map[string]string{r.latents: "latents", r.pictures: "pictures",
		filepath.Join(r.vae, "reconstructions.png"): "a picture"} {
		ditrun(t, "inspect", "--sha256", path).refused(t, 2, "inspect: --sha256 is for weights, "+path+" holds "+holds)
	}
}
