package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
)

func classesCommand() *cli.Command {
	return newCommand(spec{
		name:  "classes",
		usage: "list or search the names of classes",
		description: "Prints the number, as sample --class-labels takes it, the name and what\n" +
			"it means: of ImageNet's 1,000 classes, or of a folder of latents or of\n" +
			"pictures. With WORDs only the classes that have all of them.",
		example: "ditrun classes golden retriever\nditrun classes --data latents",
		args:    "[WORD...]",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "data", DefaultText: "ImageNet-1k",
				Usage: "the classes of the latents or pictures at `PATH`"},
			&cli.StringFlag{Name: "labels",
				Usage: "with --data: the classes of pictures that lie in no class folders, in `FILE`"},
		},
		run: runClasses,
	})
}

type classLine struct {
	Label int    `json:"label"`
	Name  string `json:"name"`
	Words string `json:"words,omitempty"`
}

func runClasses(e *env) error {
	list, err := classNamesAt(e, e.flags.String("data"))
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

// classNamesAt returns the names of the classes of latents or pictures at a location, ImageNet's where that is "".
func classNamesAt(e *env, location string) ([]string, error) {
	if location == "" {
		return classes.ImageNetNames(), nil
	}
	if m, err := latents.ReadManifest(location); err == nil {
		return m.Dataset.Classes, nil
	}
	src, err := e.openPictures(location, e.flags.String("labels"), picture.AsStored)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return src.Classes(), nil
}
