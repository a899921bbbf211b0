package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/hub"
	"github.com/ditrun/ditrun/diffusion/sampling"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/vae"
)

// A weightsFlag is a flag, or the argument of a command, whose value names weights: by a path, by a known name, or by
// a repository of the hub. A path that is there wins.
type weightsFlag struct {
	name  string   // as a message has it: --vae
	value *string  // which becomes a path
	takes hub.Kind // what the weights are to be, "" where all will do
}

func ofVAE(value *string) weightsFlag      { return weightsFlag{"--vae", value, hub.Autoencoder} }
func ofCkpt(value *string) weightsFlag     { return weightsFlag{"--ckpt", value, hub.DiT} }
func ofGuide(value *string) weightsFlag    { return weightsFlag{"--guide-ckpt", value, hub.DiT} }
func ofInitFrom(value *string) weightsFlag { return weightsFlag{"--init-from", value, hub.DiT} }
func ofInception(value *string) weightsFlag {
	return weightsFlag{"--inception", value, hub.Inception}
}
func ofTextEncoder(dir *string) weightsFlag {
	return weightsFlag{"--text-encoder", dir, "text encoder"}
}

// fetchFlag is the flag of commands that take names of weights.
func fetchFlag(on *bool) cli.Flag {
	return &cli.BoolFlag{Name: "fetch", Destination: on, DisableDefaultText: true,
		Usage: "first get what a NAME (see ditrun fetch) stands for, where the cache lacks it"}
}

// findWeights makes paths of names: those of the cache, which fetch fills first where it lacks something. What is
// neither a path nor a name stays what it is, and whoever opens it says so.
func (e *env) findWeights(fetch bool, flags ...weightsFlag) error {
	for _, f := range flags {
		given := *f.value
		if given == "" || exists(given) {
			continue
		}
		path, err := e.cached(fetch, f)
		if err != nil {
			return err
		}
		if path == "" {
			continue
		}
		if *f.value = path; f.takes != "" { // inspect names its file
			e.printf("%-7s %s is %s", strings.TrimPrefix(f.name, "--"), given, path)
		}
	}
	return nil
}

// cached returns the path in the cache of what a flag names, "" where it names nothing that a cache could have.
func (e *env) cached(fetch bool, f weightsFlag) (path string, err error) {
	name := f.knownName()
	ref, err := hub.Parse(name)
	if err != nil || strings.HasPrefix(name, "https://") {
		return "", f.noSuchPath(err)
	}
	if known := ref.Known; known.Name != "" && !f.takesKind(known.Holds) {
		return "", usagef("%s %s: names weights of another kind, %s, want %s", f.name, *f.value, known.Holds, f.takes)
	}
	result, err := hub.Cached(name)
	missing := (*hub.NotCachedError)(nil)
	switch {
	case err == nil:
		e.warnUnlisted(result)
		return result.Path, nil
	case errors.As(err, new(*disk.NoCacheError)):
		return "", fmt.Errorf("%s %s: no such file or folder, and %w", f.name, *f.value, err)
	case !errors.As(err, &missing):
		return "", fmt.Errorf("%s %s: no such file or folder, and the cache cannot be searched: %w", f.name, *f.value,
			err)
	case fetch && !f.isLikelyPath():
		result, err := e.fetch(name, hub.Options{})
		if err != nil {
			return "", fmt.Errorf("%s %s: %w", f.name, *f.value, err)
		}
		return result.Path, nil
	}
	return "", f.notCached(name, missing)
}

func (f weightsFlag) takesKind(k hub.Kind) bool {
	return f.takes == "" || k == f.takes || k == hub.Pipeline && (f.takes == hub.DiT || f.takes == hub.Autoencoder)
}

// knownName is the value, or the known name that ema and mse stand for as in DiT's scripts.
func (f weightsFlag) knownName() string {
	if name := *f.value; f.takes != hub.Autoencoder || name != "ema" && name != "mse" || exists(name) {
		return name
	}
	return "sd-vae-ft-" + *f.value
}

// isLikelyPath says whether a value of the form ORG/REPO is rather a path: there is a folder ORG.
func (f weightsFlag) isLikelyPath() bool {
	return hub.IsRepo(*f.value) && exists(filepath.Dir(*f.value))
}

// notCached says that the cache lacks what a name stands for, and how to get it. --fetch gets nothing that is likely a
// path.
func (f weightsFlag) notCached(name string, missing *hub.NotCachedError) error {
	err := fmt.Errorf("%s %s: no such file or folder, and %w", f.name, *f.value, missing)
	if strings.HasPrefix(*f.value, "hf:") {
		err = fmt.Errorf("%s: %w", f.name, missing)
	}
	known := missing.Ref.Known
	if known.Name == "" {
		if near := cmp.Or(f.near(), f.beside()); near != "" {
			return withHint(err, "did you mean %s?", near)
		}
	}
	or := ", or add --fetch"
	if f.isLikelyPath() {
		or = ""
	}
	if known.Name == "" {
		if hub.IsRepo(name) {
			name = "hf:" + name
		}
		return withHint(err, "if a repository of the hub is meant, `ditrun fetch %s` gets it%s", name, or)
	}
	about := known.License
	if known.Bytes > 0 {
		about = format.Bytes(known.Bytes) + ", " + about
	}
	return withHint(err, "`ditrun fetch %s` gets it (%s)%s", known.Name, about, or)
}

// beside is the path that the value, likely a path, may have been meant to be: one in the same folder, "" for none.
func (f weightsFlag) beside() string {
	dir, base := filepath.Split(*f.value)
	entries, err := os.ReadDir(dir)
	if err != nil || !f.isLikelyPath() {
		return ""
	}
	var there []string
	for _, entry := range entries {
		there = append(there, entry.Name())
	}
	if near := names.Nearest(base, there); near != "" {
		return dir + near
	}
	return ""
}

// noSuchPath is the error for a value that is no path and no name, nil where whoever opens it will say enough. Err says
// why it is no name.
func (f weightsFlag) noSuchPath(err error) error {
	switch near := f.near(); {
	case strings.HasPrefix(*f.value, "hf:"):
		return usagef("%s: %w", f.name, err)
	case strings.HasPrefix(*f.value, "https://"):
		return withHint(usagef("%s %s: want a path or a name", f.name, *f.value),
			"`ditrun fetch %s` gets it and prints its path", *f.value)
	case near != "" && !filepath.IsAbs(*f.value):
		return withHint(fmt.Errorf("%s %s: no such file or folder", f.name, *f.value), "did you mean %s?", near)
	}
	return nil
}

// near is the known name that the value may have been meant to be, "" for none.
func (f weightsFlag) near() string { return nearName(*f.value, f.takesKind) }

// nearName is the known name, of weights of a kind that fits, which text may have been meant to be, "" for none: a slip
// of the keyboard, the name in a folder that does not have it, the name of its file, or its first or last words.
func nearName(text string, fits func(hub.Kind) bool) string {
	words := strings.NewReplacer("/", "-", "_", "-").Replace(strings.ToLower(text))
	base := filepath.Base(text)
	var fitting []string
	for _, k := range hub.Names() {
		if !fits(k.Holds) {
			continue
		}
		if strings.EqualFold(base, k.Name) || base == filepath.Base(k.Ref) || strings.HasPrefix(k.Name, words+"-") ||
			strings.HasSuffix(k.Name, "-"+words) {
			return k.Name
		}
		fitting = append(fitting, k.Name)
	}
	return names.Nearest(words, fitting)
}

// findAutoencoder returns the path of the autoencoder that latents or a checkpoint know by name and SHA-256: in one of
// the folders dirs, or in the cache. It is "" where none of them has these weights under that name.
func findAutoencoder(name, sum string, dirs ...string) string {
	if name == "" || sum == "" {
		return ""
	}
	var paths []string
	for _, dir := range dirs {
		paths = append(paths, filepath.Join(dir, name))
	}
	if result, err := hub.Cached(name); err == nil {
		paths = append(paths, result.Path)
	}
	for _, path := range paths {
		if w, err := vae.Read(path); err == nil {
			found, err := w.SHA256()
			w.Close()
			if err == nil && found == sum {
				return path
			}
		}
	}
	return ""
}

// autoencoderFor is what findAutoencoder finds here for a checkpoint that brings none, as err says.
func autoencoderFor(err error) string {
	missing := (*sampling.VAEError)(nil)
	if !errors.As(err, &missing) {
		return ""
	}
	return findAutoencoder(missing.Name, missing.SHA256, ".")
}

// withVAEHint adds to an error about the autoencoder of a checkpoint what to do.
func withVAEHint(err error) error {
	missing := (*sampling.VAEError)(nil)
	if !errors.As(err, &missing) {
		return err
	}
	return withHint(err, "%s", hintOfVAE(missing))
}

// hintOfVAE says how to give the autoencoder that is missing.
func hintOfVAE(missing *sampling.VAEError) string {
	known, _ := hub.Parse(missing.Name)
	cached := hub.NameOf(missing.Path)
	switch {
	case cached != "" && isMissing(missing):
		return fmt.Sprintf("it was in the cache: give --vae %s --fetch", cached)
	case missing.Path == "" && known.Known.Name != "":
		return fmt.Sprintf("give --vae %s, with --fetch where the cache lacks it", missing.Name)
	case missing.Path == "" && missing.SHA256 == "":
		return "give the autoencoder of its latents with --vae; `ditrun fetch sd-vae-ft-ema` gets that of the " +
			"published models"
	}
	return "give the autoencoder that made the latents with --vae"
}

// nameOfVAE is what a run that encodes pictures calls the autoencoder of a path: as findAutoencoder looks for it.
func nameOfVAE(path string) string { return cmp.Or(hub.NameOf(path), filepath.Base(path)) }
