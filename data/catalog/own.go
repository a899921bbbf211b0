package catalog

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/store"
)

// latentsManifest is the file that makes a folder one of latents.
const latentsManifest = "manifest.json"

// shardName is the name of a shard of latents.
var shardName = regexp.MustCompile(`^latents-\d+-of-\d+\.safetensors$`)

// ownOutput finds a folder in a set that a command of ditrun wrote: its path in the set, "" for the whole of it, and
// what it holds; what is "" where there is none. Pictures in such folders (previews, curves, reconstructions) are no
// data.
func ownOutput(set *store.Set) (folder, what string) {
	for _, o := range set.Objects {
		dir, base := path.Split(o.Name)
		what := ""
		beside := func(name string) bool {
			_, ok := slices.BinarySearchFunc(set.Objects, dir+name, func(o store.Object, name string) int {
				return cmp.Compare(o.Name, name)
			})
			return ok
		}
		switch {
		case shardName.MatchString(base):
			what = "encoded latents"
		case base == "run.json" && (beside("log.jsonl") || beside("config.yaml")):
			what = "a run of train"
		case base == "diffusion_pytorch_model.safetensors" && beside("config.json"):
			what = "an autoencoder"
		case base == "train-vae.json" && beside("optimizer.safetensors"):
			what = "a run of train-vae"
		case base == "labels.csv" && dir != "" && beside("000000.png"):
			what = "pictures drawn by sample"
		}
		if what != "" && filename.SystemFolder(dir) == "" {
			return strings.TrimSuffix(dir, "/"), what
		}
	}
	return "", ""
}

// drawnBySample finds the output of sample directly in a set, which ownOutput does not, since --labels may open it.
func drawnBySample(set *store.Set) bool {
	has := func(name string) bool {
		return slices.ContainsFunc(set.Objects, func(o store.Object) bool { return o.Name == name })
	}
	return has("labels.csv") && has("000000.png")
}

// refuseOwn is the error of a set of pictures with output of ditrun in it.
func refuseOwn(set *store.Set) error {
	switch dir, what := ownOutput(set); {
	case what == "":
		return nil
	case dir == "":
		return fmt.Errorf("open %s: holds %s, want pictures: name a folder that holds only pictures",
			set.Location, what)
	default:
		return fmt.Errorf("open %s: %s holds %s, not pictures to train on: move it out of the folder",
			set.Location, set.Path(dir), what)
	}
}
