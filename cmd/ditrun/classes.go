package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
)

// classesOptions are the flags of classes.
type classesOptions struct{ data, labels string }

func (o *classesOptions) flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "data", Destination: &o.data, DefaultText: "ImageNet-1k",
			Usage: "the classes of the latents or pictures at `PATH`"},
		&cli.StringFlag{Name: "labels", Destination: &o.labels,
			Usage: "`FILE`: with --data: classes of pictures that are in no class folder"},
	}
}

func classesCommand() *cli.Command {
	o := &classesOptions{}
	return newCommand(spec{
		name:  "classes",
		usage: "list or search the names of classes",
		description: "Prints the number, as sample --class-labels takes it, the name and what\n" +
			"it means: of ImageNet's 1,000 classes, or of a folder of latents or of\n" +
			"pictures. With WORDs only the classes that have all of them.",
		example: "ditrun classes golden retriever\nditrun classes --data latents",
		args:    "[WORD...]",
		flags:   o.flags(),
		run:     func(e *env) error { return runClasses(e, o) },
	})
}

type classLine struct {
	Label int    `json:"label"`
	Name  string `json:"name"`
	Words string `json:"words,omitempty"`
}

func runClasses(e *env, o *classesOptions) error {
	list, err := o.names(e)
	if err != nil {
		return err
	}
	found := []classLine{}
	for label, name := range list {
		if !classes.Has(name, e.flags.Args().Slice()) {
			continue
		}
		c := classLine{Label: label, Name: name}
		if words := classes.Words(name); words != name {
			c.Words = words
		}
		found = append(found, c)
	}
	if len(found) == 0 {
		return fmt.Errorf("no class of %d has %q", len(list), strings.Join(e.flags.Args().Slice(), " "))
	}
	width := len(fmt.Sprint(len(list) - 1))
	for _, c := range found {
		line := fmt.Sprintf("%*d  %s  %s", width, c.Label, classes.Shown(c.Name), c.Words)
		e.printf("%s", strings.TrimRight(line, " "))
	}
	return e.result(found)
}

// names returns the names of the classes of the latents or pictures at --data, ImageNet's without it.
func (o *classesOptions) names(e *env) ([]string, error) {
	if o.data == "" {
		return classes.ImageNetNames(), nil
	}
	if m, err := latents.ReadManifest(o.data); err == nil {
		return m.Dataset.Classes, nil
	}
	src, err := e.openPictures(o.data, o.labels, picture.AsStored)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return src.Classes(), nil
}
