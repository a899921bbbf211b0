package latents

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/picture"
)

// Of two encoders with different autoencoders the second is refused at once, both named, before either has made a
// shard.
func TestSecondPlanIsRefused(t *testing.T) {
	dir, ours := t.TempDir(), testPlan(10)
	w, err := NewWriter(dir, ours)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	theirs := testPlan(10)
	theirs.VAE = VAE{Name: "other-vae", SHA256: strings.Repeat("cd", 32), ScalingFactor: 0.5}
	smaller := testPlan(10)
	smaller.ImageSize = picture.Square(16)
	for _, c := range []struct {
		plan Plan
		want string
	}{
		{theirs, "another process makes latents there with VAE test-vae (sha256 abababababab...), this one has VAE " +
			"other-vae (sha256 cdcdcdcdcdcd...): choose another folder"},
		{smaller, "another process makes latents there made with image_size 24, this plan has 16: choose another " +
			"folder"},
	} {
		if _, err := NewWriter(dir, c.plan); err == nil || err.Error() != "write latents to "+dir+": "+c.want {
			t.Errorf("error %v, want %s", err, c.want)
		}
	}
	// One with the same plan shares the work, and the set that they make has no plan but the manifest.
	if _, err := encodeAll(context.Background(), dir, ours); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	datatest.SameContents(t, datatest.Contents(t, dir), datatest.Contents(t, testLatents(t, ours)))
	if _, err := NewWriter(dir, theirs); err == nil || !strings.Contains(err.Error(),
		"it holds latents made with vae_sha256 abab") {
		t.Errorf("a finished set: error %v", err)
	}
}

// A plan of which nothing came is no obstacle to another one; one with shards is.
func TestPlanOfADeadWriter(t *testing.T) {
	dir, theirs := t.TempDir(), testPlan(10)
	theirs.VAE.SHA256 = strings.Repeat("cd", 32)
	w, err := NewWriter(dir, theirs)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.share.Unlock(); err != nil { // as the kernel does for a process that dies
		t.Fatal(err)
	}
	if w, err = NewWriter(dir, testPlan(10)); err != nil {
		t.Fatal(err)
	}
	for c, err := range w.Claims(context.Background(), 0, 1) {
		if err != nil {
			t.Fatal(err)
		}
		if err := fillClaim(c); err != nil {
			t.Fatal(err)
		}
		break
	}
	w.Close()
	if _, err := NewWriter(dir, theirs); err == nil || !strings.Contains(err.Error(),
		"was made to another plan: vae_sha256 is abab") {
		t.Errorf("a folder with a shard: error %v", err)
	}
	if _, err := encodeAll(context.Background(), dir, testPlan(10)); err != nil {
		t.Errorf("the same plan: %v", err)
	}
}

// A damaged plan is refused while its writer lives, and replaced afterwards.
func TestDamagedPlan(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWriter(dir, testPlan(10))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, planName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	datatest.FlipBit(t, path, 8*int64(strings.Index(string(text), "test-vae")))
	if _, err := NewWriter(dir, testPlan(10)); err == nil || !strings.Contains(err.Error(),
		"a plan that cannot be read (plan.json: sha256") {
		t.Errorf("error %v", err)
	}
	w.share.Unlock()
	if _, err := encodeAll(context.Background(), dir, testPlan(10)); err != nil {
		t.Error(err)
	}
}

// A set of before there was a file of the plan is continued, and guarded from then on.
func TestSetWithoutPlan(t *testing.T) {
	dir := testLatents(t, testPlan(10))
	for _, name := range []string{ManifestName, "latents-00001-of-00003.safetensors"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	w, err := NewWriter(dir, testPlan(10))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := os.Stat(filepath.Join(dir, planName)); err != nil {
		t.Error(err)
	}
	if _, err := encodeAll(context.Background(), dir, testPlan(10)); err != nil {
		t.Error(err)
	}
}

// TestPlanOfAnotherOrientation: a set whose pictures were turned is not gone on with by an encoder that leaves them as
// they are, nor the other way round. As stored is what sets are that say nothing of it.
func TestPlanOfAnotherOrientation(t *testing.T) {
	for _, c := range []struct {
		made, then picture.Orientation
		want       string
	}{
		{"", picture.ByEXIF, "orientation as-stored, this plan has exif"},
		{picture.AsStored, picture.ByEXIF, "orientation as-stored, this plan has exif"},
		{picture.ByEXIF, "", "orientation exif, this plan has as-stored"},
		{picture.ByEXIF, picture.AsStored, "orientation exif, this plan has as-stored"},
		{"", picture.AsStored, ""}, {picture.AsStored, "", ""}, {picture.ByEXIF, picture.ByEXIF, ""},
	} {
		p := testPlan(6)
		p.Orientation = c.made
		dir := testLatents(t, p)
		m, err := readManifest(dir)
		if err != nil || (m.Orientation == picture.ByEXIF) != (c.made == picture.ByEXIF) ||
			m.Orientation == picture.AsStored {
			t.Fatalf("the manifest has orientation %q, error %v", m.Orientation, err)
		}
		p.Orientation = c.then
		check := func(what, want string) {
			w, err := NewWriter(dir, p)
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%q, then %q, %s: error %v, want %q", c.made, c.then, what, err, want)
			}
			if err == nil {
				w.Close()
			}
		}
		check("by the manifest", c.want)
		if err := os.Remove(filepath.Join(dir, ManifestName)); err != nil {
			t.Fatal(err)
		}
		shards := c.want
		if before, after, ok := strings.Cut(c.want, ", this plan has "); ok {
			shards = strings.Replace(before, "orientation ", "orientation is ", 1) + ", want " + after
		}
		check("by the shards", shards)
	}
	// While somebody encodes, the plan says it.
	p, dir := testPlan(6), t.TempDir()
	w, err := NewWriter(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p.Orientation = picture.ByEXIF
	if _, err := NewWriter(dir, p); err == nil ||
		!strings.Contains(err.Error(), "made with orientation as-stored, this plan has exif") {
		t.Errorf("error %v", err)
	}
	p.Orientation = "sideways"
	_, err = NewWriter(t.TempDir(), p)
	if err == nil || !strings.Contains(err.Error(), `orientation "sideways"`) {
		t.Errorf("error %v", err)
	}
	// Nothing is written down of what is as stored, so that such sets have the bytes that they had.
	for _, o := range []picture.Orientation{"", picture.AsStored} {
		p := testPlan(6)
		p.Orientation = o
		for name, text := range datatest.Contents(t, testLatents(t, p)) {
			if strings.Contains(text, "orientation") {
				t.Errorf("%s mentions the orientation", name)
			}
		}
	}
}

// TestSetOfSkippedPicturesAlone: it is no set; nothing is left of it.
func TestSetOfSkippedPicturesAlone(t *testing.T) {
	p, dir := testPlan(6), t.TempDir()
	w, err := NewWriter(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	for c, err := range w.Claims(t.Context(), 0, 1) {
		if err != nil {
			t.Fatal(err)
		}
		for i := c.Lo; i < c.Hi; i++ {
			reason := fmt.Sprintf("load dir: of/%d.png: torn: much", i)
			if err := c.Skip(i, catalog.Sample{Name: "n", Label: 0}, reason); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.Finish(t.Context())
	var bad *catalog.BadPicturesError
	want := "none of the 6 pictures can be decoded:\n  dir: of/0.png: torn: much\n  dir: of/1.png: torn: much\n"
	if !errors.As(err, &bad) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
	w.Close()
	if got := datatest.Contents(t, dir); len(got) != 0 {
		t.Errorf("%d files are left", len(got))
	}
}

// What a killed process left of its plan goes when the next one begins.
func TestLeftoverOfPlanIsSwept(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "."+planName+".999999-ABCDEFGH.tmp")
	if err := os.WriteFile(left, []byte("{"), 0o666); err != nil {
		t.Fatal(err)
	}
	w, err := NewWriter(dir, testPlan(10))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", left, err)
	}
}

// TestWrongScale: from half to twice what a DiT wants is fine; beyond it the words have the factor that would fit.
func TestWrongScale(t *testing.T) {
	for std, want := range map[float64]string{
		0.5: "", 1: "", 2: "", math.NaN(): "",
		0.25: "0.25 after scaling by 0.1, a DiT wants about 1: a scaling factor of another autoencoder? 0.4 would fit",
		4:    "4 after scaling by 0.1, a DiT wants about 1: a scaling factor of another autoencoder? 0.025 would fit",
		0:    "0 after scaling by 0.1, a DiT wants about 1: a scaling factor of another autoencoder?",
	} {
		if want != "" {
			want = "the latents have a standard deviation of " + want
		}
		if got := WrongScale(0.1, std); got != want {
			t.Errorf("%g: %q, want %q", std, got, want)
		}
	}
}
