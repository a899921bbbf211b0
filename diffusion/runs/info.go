package runs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ditrun/ditrun/internal/disk"
)

// infoName is the file that makes a folder the folder of a run.
const infoName = "run.json"

// Info is the content of run.json.
type Info struct {
	RunID      string    `json:"run_id"`
	Model      string    `json:"model"`
	Started    time.Time `json:"started"`
	Device     string    `json:"device"`
	Attention  string    `json:"attention,omitempty"` // what computes it: dit.Config.AttentionBackend
	OS         string    `json:"os"`
	Arch       string    `json:"arch"`
	CPUs       int       `json:"cpus"`
	Command    []string  `json:"command"`
	ConfigHash string    `json:"config_hash"`
	From       string    `json:"from,omitempty"` // the checkpoint of another program that it begins from
	// Derived are the keys of the configuration whose values follow from the length of the run: nobody chose them.
	Derived []string `json:"derived,omitempty"`
	// Products are how matrix products were computed on its GPUs (torch.ProductChoices).
	Products []string     `json:"products,omitempty"`
	Versions Versions     `json:"versions"`
	Resumed  []Resumption `json:"resumed,omitempty"`
}

// Resumption is one continuation of a run.
type Resumption struct {
	Step      int       `json:"step"`
	Time      time.Time `json:"time"`
	Device    string    `json:"device"`
	Attention string    `json:"attention,omitempty"`
	Versions  Versions  `json:"versions"`
}

// Versions says which programs computed.
type Versions struct {
	Ditrun      string `json:"ditrun"`
	Go          string `json:"go"`
	Libtorch    string `json:"libtorch,omitempty"`
	GitRevision string `json:"git_revision,omitempty"`
	// GitModified: the tree had changes that are not in the revision.
	GitModified bool `json:"git_modified,omitempty"`
}

// BuildVersions reads the version of this binary, of Go and, where it was
// built inside a git checkout, the revision. Libtorch is left empty.
func BuildVersions() Versions {
	v := Versions{Ditrun: "devel", Go: runtime.Version()}
	bi, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if bi.Main.Version != "" && bi.Main.Version != "(devel)" {
		v.Ditrun = bi.Main.Version
	}
	for _, s := range bi.Settings {
		switch s.Key {
		case "vcs.revision":
			v.GitRevision = s.Value
		case "vcs.modified":
			v.GitModified = s.Value == "true"
		}
	}
	return v
}

func currentVersions(libtorch string) Versions {
	v := BuildVersions()
	v.Libtorch = libtorch
	return v
}

func newInfo(o Options, now time.Time) Info {
	return Info{
		Model:      o.Model,
		Started:    now,
		Device:     o.Device,
		Attention:  o.Attention,
		OS:         runtime.GOOS,
		Arch:       runtime.GOARCH,
		CPUs:       runtime.NumCPU(),
		Command:    o.Command,
		ConfigHash: o.ConfigHash,
		From:       o.From,
		Derived:    o.Derived,
		Versions:   currentVersions(o.Libtorch),
	}
}

// ReadInfo reads DIR/run.json.
func ReadInfo(dir string) (*Info, error) {
	path := filepath.Join(dir, infoName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("run %s: no run.json, so not a run folder: %w", dir, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	var info Info
	if err := json.Unmarshal(data, &info); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if info.RunID == "" {
		return nil, fmt.Errorf("read %s: no run_id", path)
	}
	return &info, nil
}

func (i *Info) write(dir string) error {
	return disk.WriteFile(filepath.Join(dir, infoName), func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(i)
	})
}

func writeYAML(path string, v any) error {
	return disk.WriteFile(path, func(w io.Writer) error {
		e := yaml.NewEncoder(w)
		e.SetIndent(2)
		if err := e.Encode(v); err != nil {
			return err
		}
		return e.Close()
	})
}
