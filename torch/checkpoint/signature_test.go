package checkpoint_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/saves"
	"github.com/ditrun/ditrun/torch/checkpoint"
	"github.com/ditrun/ditrun/torch/checkpoint/namemap"
)

// writeCheckpoint makes a checkpoint of a training run of one process: RUN/checkpoints/NNNNNNN.
func writeCheckpoint(t *testing.T, dir string, step int) string {
	t.Helper()
	path := filepath.Join(dir, saves.StepName(step))
	if err := os.MkdirAll(path, 0o777); err != nil {
		t.Fatal(err)
	}
	f := saves.Folder{Step: step, World: 1}
	for i, name := range []string{saves.ModelName, saves.EMAName, saves.OptimizerName(0, 1)} {
		data := make([]byte, 4000)
		data[i] = byte(step)
		err := checkpoint.Write(filepath.Join(path, name),
			[]checkpoint.Tensor{{Info: checkpoint.Info{Name: "x", DType: checkpoint.F32, Shape: []int64{1000}},
				Data: data}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		saved, err := saves.Describe(path, name)
		if err != nil {
			t.Fatal(err)
		}
		f.Files = append(f.Files, saved)
	}
	text, err := disk.MarshalSealed(f)
	if err == nil {
		err = os.WriteFile(filepath.Join(path, saves.StateName), text, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func flipByte(t *testing.T, path string, at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[(at+len(b))%len(b)] ^= 1
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
}

// Every way to what is in a signed file compares it with the checksum: reading it, a section or a view of it, and
// writing it anew in any form, which leaves nothing behind.
func TestEveryReaderCompares(t *testing.T) {
	dir := t.TempDir()
	older := writeCheckpoint(t, dir, 10)
	path := filepath.Join(writeCheckpoint(t, dir, 20), saves.EMAName)
	if err := os.Symlink(saves.StepName(20), filepath.Join(dir, saves.LatestName)); err != nil {
		t.Fatal(err)
	}
	readers := func(path string) map[string]error {
		f, err := checkpoint.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		view, err := namemap.Map(f,
			[]namemap.Entry{{Name: "y", Shape: []int64{10, 100}, Parts: []namemap.Part{namemap.Whole("x", 1000)}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		out := t.TempDir()
		errs := map[string]error{
			"file": f.Verify(), "section": namemap.Section(f, "x").Verify(), "view": view.Verify(),
			"safetensors": checkpoint.Write(filepath.Join(out, "a.safetensors"), checkpoint.From(view), nil),
			"PyTorch":     checkpoint.WritePyTorch(filepath.Join(out, "a.pt"), checkpoint.From(f)),
		}
		if left, _ := os.ReadDir(out); len(left) != 0 && errs["file"] != nil {
			t.Errorf("left %v", left)
		}
		return errs
	}
	for what, err := range readers(path) {
		if err != nil {
			t.Errorf("%s of a whole file: %v", what, err)
		}
	}
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := f.SHA256()
	f.Close()
	if want, _ := disk.SHA256(path); sum != want || err != nil {
		t.Errorf("sha256 %s, %v, want %s", sum, err, want)
	}
	flipByte(t, path, -3)
	now, _ := disk.SHA256(path)
	want := "sha256 " + now[:12] + "..., " + sum[:12] + "... when it was written (state.json): damaged: take an " +
		"older checkpoint: " + older
	for _, path := range []string{path, filepath.Join(dir, saves.LatestName, saves.EMAName)} {
		for what, err := range readers(path) {
			if err == nil || !strings.HasSuffix(err.Error(), "load "+path+": "+want) {
				t.Errorf("%s: error %v, want %s", what, err, want)
			}
		}
	}
	f, err = checkpoint.OpenUnverified(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Verify() != nil || f.Signed() != "" {
		t.Error("a file that is opened without a look at its checksum has one")
	}
}

// A header that is not what was written is seen as damage, not as another file; so is a size.
func TestDamageIsTheCause(t *testing.T) {
	path := filepath.Join(writeCheckpoint(t, t.TempDir(), 10), saves.ModelName)
	flipByte(t, path, 12)
	_, err := checkpoint.Open(path)
	if err == nil || !strings.Contains(err.Error(),
		"when it was written (state.json): damaged: no older checkpoint is beside it") {
		t.Errorf("header: error %v", err)
	}
	flipByte(t, path, 12)
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := checkpoint.Open(path); err == nil || !strings.Contains(err.Error(),
		"100 bytes, 4072 when it was written (state.json): cut short or damaged") {
		t.Errorf("size: error %v", err)
	}
}

// state.json is compared with itself before it is believed, by those who want but the weights too.
func TestDamagedState(t *testing.T) {
	dir := writeCheckpoint(t, t.TempDir(), 10)
	state, path := filepath.Join(dir, saves.StateName), filepath.Join(dir, saves.EMAName)
	text, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	set := func(text string) {
		if err := os.WriteFile(state, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	set(strings.Replace(string(text), `"step": 10`, `"step": 11`, 1))
	if _, err := checkpoint.Open(path); err == nil ||
		!strings.Contains(err.Error(), "load "+path+": state.json: sha256") {
		t.Errorf("another step: error %v", err)
	}
	set(strings.Replace(string(text), `"world_size"`, `"worle_size"`, 1))
	if _, err := checkpoint.Open(path); err == nil || !strings.Contains(err.Error(), "state.json: world size 0") {
		t.Errorf("no world: error %v", err)
	}
	set(`{"_data_files": [], "_split": "train"}`) // what another program calls so
	f, err := checkpoint.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if f.Signed() != "" {
		t.Error("a state.json of another program signs")
	}
	f.Close()
}

func TestSums(t *testing.T) {
	dir := t.TempDir()
	path, config := filepath.Join(dir, "w.safetensors"), filepath.Join(dir, "config.json")
	if err := checkpoint.Write(path,
		[]checkpoint.Tensor{{Info: checkpoint.Info{Name: "x", DType: checkpoint.U8, Shape: []int64{5}},
			Data: []byte("12345")}},
		nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte("{}"), 0o666); err != nil {
		t.Fatal(err)
	}
	both := func() (weights, text error) {
		f, err := checkpoint.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, text = saves.ReadSigned(config, 100)
		return f.Verify(), text
	}
	if w, c := both(); w != nil || c != nil {
		t.Errorf("unsigned: %v, %v", w, c)
	}
	var files []saves.File
	for _, name := range []string{"config.json", "w.safetensors"} {
		f, err := saves.Describe(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	if err := saves.WriteSums(dir, files); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("{}"))
	if text, _ := os.ReadFile(filepath.Join(dir, saves.SumsName)); !strings.HasPrefix(string(text),
		hex.EncodeToString(sum[:])+"  config.json\n") {
		t.Errorf("%s: want the form of sha256sum", text)
	}
	if w, c := both(); w != nil || c != nil {
		t.Errorf("signed: %v, %v", w, c)
	}
	// Sums that an editor saved with a byte order mark still say what they did.
	sums, err := os.ReadFile(filepath.Join(dir, saves.SumsName))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, saves.SumsName), append([]byte("\ufeff"), sums...), 0o666); err != nil {
		t.Fatal(err)
	}
	flipByte(t, path, -1)
	if err := os.WriteFile(config, []byte("[]"), 0o666); err != nil {
		t.Fatal(err)
	}
	w, c := both()
	for _, err := range []error{w, c} {
		if err == nil || !strings.Contains(err.Error(),
			"when it was written (SHA256SUMS): damaged: copy it again, or delete "+filepath.Join(dir,
				saves.SumsName)+" if it was changed on purpose") {
			t.Errorf("damaged: error %v", err)
		}
	}
	if _, err := saves.ReadSigned(config, 1); err == nil || !strings.Contains(err.Error(), "more than 1 bytes") {
		t.Errorf("a long file: error %v", err)
	}
	if _, err := saves.ReadSigned(filepath.Join(dir, "none"), 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: error %v", err)
	}
}
