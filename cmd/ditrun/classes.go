package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/internal/names"
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
		c := classLine{Label: label, Name: name}
		if words := catalog.ClassWords(name); words != name {
			c.Words = words
		}
		if matches(c, e.flags.Args().Slice()) {
			found = append(found, c)
		}
	}
	if len(found) == 0 {
		return fmt.Errorf("no class of %d has %q", len(list), strings.Join(e.flags.Args().Slice(), " "))
	}
	width := len(fmt.Sprint(len(list) - 1))
	for _, c := range found {
		e.printf("%s", strings.TrimRight(fmt.Sprintf("%*d  %s  %s", width, c.Label, shownName(c.Name), c.Words), " "))
	}
	return e.result(found)
}

// matches says whether a class has all words, in any case, anywhere in its name, as it is or as it is shown, or
// meaning.
func matches(c classLine, words []string) bool {
	text := strings.ToLower(names.Canonical(c.Name + "\n" + shownName(c.Name) + "\n" + c.Words))
	for _, w := range words {
		if !strings.Contains(text, strings.ToLower(names.Canonical(names.Given(w)))) {
			return false
		}
	}
	return true
}

func classNamesAt(e *env, location string) ([]string, error) {
	if location == "" {
		var list []string
		for _, c := range catalog.ImageNetClasses() {
			list = append(list, c.Synset)
		}
		return list, nil
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
