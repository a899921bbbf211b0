package main

import (
	"errors"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/hub"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
)

func fetchCommand() *cli.Command {
	return newCommand(spec{
		name:  "fetch",
		usage: "get known weights, or those of a hub repository or an address",
		args:  "[NAME | hf:ORG/REPO[@REVISION][/FILE] | https://...]",
		description: "Without an argument it lists the names it knows. Files of a repository go\n" +
			"to the cache of Python's huggingface_hub, and are taken from there where\n" +
			"they are; others to ditrun's cache. A broken download is continued by\n" +
			"the same command. Checksums that the server gives are checked.",
		example: "ditrun fetch sd-vae-ft-ema\n" +
			"ditrun fetch hf:facebook/DiT-XL-2-256",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "out", DefaultText: "the cache", Usage: "`DIR` for the file of an https address"},
			&cli.StringFlag{Name: "sha256", Usage: "`HEX` that the file of an https address must have"},
		},
		run: runFetch,
	})
}

type fetchResult struct {
	Path    string     `json:"path"`
	License string     `json:"license"`
	Offline bool       `json:"offline"`
	Files   []hub.File `json:"files"`
}

func runFetch(e *env) error {
	if e.flags.NArg() == 0 {
		return listKnown(e)
	}
	if e.flags.NArg() > 1 {
		return usagef("fetch: one name at a time, found %q too", e.flags.Args().Get(1))
	}
	text := e.flags.Args().First()
	if _, err := hub.Parse(text); err != nil {
		var names []string
		for _, k := range hub.Names() {
			names = append(names, k.Name)
		}
		if n := nearest(text, names); n != "" {
			return withHint(usageError{err}, "did you mean %s?", n)
		}
		return withHint(usageError{err}, "`ditrun fetch` lists the names")
	}
	var bar *progress.Bar
	current := ""
	r, err := hub.Resolve(e.ctx, text, hub.Options{
		Out: e.flags.String("out"), SHA256: e.flags.String("sha256"),
		License: func(license string) {
			if license == "" {
				license = "not stated"
			}
			e.printf("licence %s", plain(license))
		},
		Waiting: func(text string) { e.warn("%s", text) },
		Progress: func(name string, done, total int64) {
			if bar == nil || name != current {
				if bar != nil {
					bar.Finish()
				}
				bar, current = e.progress("fetch "+plain(name), "bytes", max(total, done)), name
			}
			bar.Set(done)
		},
	})
	if err != nil {
		if partial := (*hub.PartialError)(nil); errors.As(err, &partial) {
			return withKept(err, "%s are kept; the same command continues there", format.Bytes(partial.Bytes))
		}
		return err
	}
	if bar != nil {
		bar.Finish()
	}
	if r.Offline {
		e.printf("without network: what the cache has")
	}
	if r.Unlisted {
		e.warn("whether the cache has all files of the repository is not known: another program fetched it")
	}
	for _, f := range r.Files {
		how := "fetched, checksum right"
		switch {
		case f.Cached && f.Checked:
			how = "was there"
		case f.Cached:
			how = "was there, sha256 " + f.SHA256
		case !f.Checked:
			how = "fetched; nobody gave a checksum to compare with, its sha256 is " + f.SHA256
		}
		e.printf("file    %s, %s, %s", plain(f.Name), format.Bytes(f.Size), how)
	}
	e.printf("path    %s", r.Path)
	return e.result(fetchResult{r.Path, r.License, r.Offline, r.Files})
}

// listKnown prints the names that fetch knows.
func listKnown(e *env) error {
	for _, k := range hub.Names() {
		e.printf("%-24s %-14s %s", k.Name, k.License, strings.TrimPrefix(k.Ref, "https://"))
	}
	return e.result(hub.Names())
}
