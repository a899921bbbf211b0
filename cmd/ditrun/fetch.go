package main

import (
	"cmp"
	"errors"
	"net/url"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/hub"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
)

// fetchOptions are the flags of fetch.
type fetchOptions struct{ out, sha256 string }

func (o *fetchOptions) flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "out", Destination: &o.out, DefaultText: "the cache",
			Usage: "put the file of an https address into `DIR`"},
		&cli.StringFlag{Name: "sha256", Destination: &o.sha256,
			Usage: "the file of an https address must have the SHA-256 `HEX`"},
	}
}

func fetchCommand() *cli.Command {
	o := &fetchOptions{}
	return newCommand(spec{
		name:  "fetch",
		usage: "get known weights, or those of a hub repository or an address",
		args:  "[NAME | ORG/REPO | hf:ORG/REPO[@REVISION][/FILE] | https://...]",
		description: "Without an argument it lists the names it knows. Files of a repository go\n" +
			"to the cache of Python's huggingface_hub, or are taken from there; other\n" +
			"files go to ditrun's cache. The same command continues a download that\n" +
			"was cut short. Checksums that the server gives are checked. Other commands\n" +
			"take the same names for --vae, --ckpt and the like; a path that is there\n" +
			"wins over a name.",
		example: "ditrun fetch sd-vae-ft-ema\n" +
			"ditrun fetch hf:facebook/DiT-XL-2-256",
		flags: o.flags(),
		run:   func(e *env) error { return runFetch(e, o) },
	})
}

type fetchResult struct {
	Path    string     `json:"path"`
	License string     `json:"license"`
	Offline bool       `json:"offline"`
	Files   []hub.File `json:"files"`
}

func runFetch(e *env, o *fetchOptions) error {
	switch args := e.flags.Args(); args.Len() {
	case 0:
		return listKnown(e)
	case 1:
		return o.fetch(e, args.First())
	default:
		return usagef("fetch: one name at a time, found %q too", args.Get(1))
	}
}

// fetch gets what the argument stands for.
func (o *fetchOptions) fetch(e *env, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	r, err := e.fetch(name, hub.Options{Out: o.out, SHA256: o.sha256})
	if err != nil {
		return err
	}
	e.printf("path    %s", r.Path)
	return e.result(fetchResult{r.Path, r.License, r.Offline, r.Files})
}

// fetch gets what a name, a repository or an address stands for, and says what it gets.
func (e *env) fetch(name string, o hub.Options) (*hub.Result, error) {
	bar := &fetchBar{env: e}
	defer e.waiting("fetch " + plain(name))()
	o.License = func(license string) { e.printf("licence %s", plain(cmp.Or(license, "not stated"))) }
	o.Waiting = func(text string) { e.warn("%s", text) }
	o.Progress = bar.set
	r, err := hub.Resolve(e.ctx, name, o)
	if err != nil {
		if partial := (*hub.PartialError)(nil); errors.As(err, &partial) {
			err = withKept(err, "%s are kept; the same command continues from there", format.Bytes(partial.Bytes))
		}
		return nil, withHubHint(err)
	}
	bar.finish()
	if r.Offline {
		e.printf("no network: these are the files in the cache")
	}
	e.warnUnlisted(r)
	for _, f := range r.Files {
		how := "fetched, checksum right"
		switch {
		case f.Cached:
			how = "was there"
		case !f.Checked:
			how = "fetched; there is no checksum to compare with"
		}
		e.printf("file    %s, %s, %s", plain(f.Name), format.Bytes(f.Size), how)
		if !f.Checked {
			e.printf("sha256  %s", f.SHA256)
		}
	}
	return r, nil
}

// withHubHint adds to an error of the hub what to do where the network does not give what the cache lacks.
func withHubHint(err error) error {
	missing := (*hub.NotCachedError)(nil)
	switch {
	case !errors.As(err, &missing):
		return err
	case missing.Ref.URL != "":
		return withHint(err, "download that file on another machine, and copy it to %s", missing.Place())
	}
	way := "name a mirror of the hub in HF_ENDPOINT"
	if errors.Is(err, hub.ErrOffline) {
		way = "unset HF_HUB_OFFLINE"
	}
	dir, folder := filepath.Split(missing.Place())
	return withHint(err, "%s, or copy the folder %s from the cache of another machine to %s", way, folder,
		filepath.Clean(dir))
}

// warnUnlisted says that files may be missing, where the cache does not know.
func (e *env) warnUnlisted(r *hub.Result) {
	if r.Unlisted {
		e.warn("whether the cache has all files of the repository is not known: another program fetched it")
	}
}

// checkName refuses what is no name, repository or address that fetch knows.
func checkName(name string) error {
	_, err := hub.Parse(name)
	if err == nil {
		return nil
	}
	if n := nearName(name, func(hub.Kind) bool { return true }); n != "" {
		return withHint(usageError{err}, "did you mean %s?", n)
	}
	return withHint(usageError{err}, "`ditrun fetch` lists the names")
}

// A fetchBar is the progress bar of one file after another.
type fetchBar struct {
	env  *env
	bar  *progress.Bar // nil before the first file
	file string
}

func (b *fetchBar) set(file string, done, total int64) {
	if b.bar == nil || file != b.file {
		b.finish()
		b.bar, b.file = b.env.progress("fetch "+plain(file), "bytes", max(total, done)), file
	}
	b.bar.Set(done)
}

func (b *fetchBar) finish() {
	if b.bar != nil {
		b.bar.Finish()
	}
}

// listKnown prints the names that fetch knows.
func listKnown(e *env) error {
	for _, k := range hub.Names() {
		origin := k.Ref
		if u, err := url.Parse(k.Ref); err == nil && u.Host != "" {
			origin = u.Host
		}
		size := ""
		if k.Bytes > 0 {
			size = format.Bytes(k.Bytes)
		}
		e.printf("%-22s  %-12s  %7s  %s", k.Name, k.License, size, origin)
	}
	return e.result(hub.Names())
}
