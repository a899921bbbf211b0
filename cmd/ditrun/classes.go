package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/latents"
)

// classesOptions are the flags of classes.
type classesOptions struct {
	data     string
	pictures pictureOptions
}

func (o *classesOptions) flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "data", Destination: &o.data, DefaultText: "ImageNet-1k",
			Usage: "the classes of the latents or pictures at `PATH`"},
		&cli.StringFlag{Name: "labels", Destination: &o.pictures.labels,
			Usage: "`FILE`: with --data: classes of pictures that are in no class folder"},
		o.pictures.unconditional(),
	}
}

func classesCommand() *cli.Command {
	o := &classesOptions{}
	return newCommand(spec{
		name:  "classes",
		usage: "list, count or search classes",
		description: "Prints the number, as sample --class-labels takes it, the name and what\n" +
			"it means: of ImageNet's 1,000 classes, or of a folder of latents or of\n" +
			"pictures, whose pictures are counted by class. With WORDs only the classes\n" +
			"that have all of them.",
		example: "ditrun classes golden retriever\nditrun classes --data latents",
		args:    "[WORD...]",
		flags:   o.flags(),
		run:     func(e *env) error { return runClasses(e, o) },
	})
}

type classLine struct {
	Label    int    `json:"label"`
	Name     string `json:"name"`
	Words    string `json:"words,omitempty"`
	Pictures *int   `json:"pictures,omitempty"` // nil where there are only names
}

func runClasses(e *env, o *classesOptions) error {
	list, counts, err := o.count(e)
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
		if counts != nil {
			c.Pictures = &counts[label]
		}
		found = append(found, c)
	}
	if len(found) == 0 {
		return fmt.Errorf("no class of %d has %q", len(list), strings.Join(e.flags.Args().Slice(), " "))
	}
	if counts != nil && classes.None(list) {
		e.printf("%s without classes", plural(counts[0], "picture"))
		return e.result(found)
	}
	printClasses(e, found, len(list))
	if counts != nil && len(found) == len(list) {
		for _, note := range classes.Balance(list, counts) {
			e.printf("%s", note)
		}
	}
	return e.result(found)
}

// printClasses writes the classes that were found of all, with the numbers of their pictures where they are known.
func printClasses(e *env, found []classLine, all int) {
	total, most := 0, 0
	for _, c := range found {
		if c.Pictures != nil {
			total, most = total+*c.Pictures, max(most, *c.Pictures)
		}
	}
	width, countWidth := len(fmt.Sprint(all-1)), len(plural(max(most, 2), "picture"))
	for _, c := range found {
		line := fmt.Sprintf("%*d  ", width, c.Label)
		if c.Pictures != nil {
			n := plural(*c.Pictures, "picture")
			if *c.Pictures == 1 {
				n += " "
			}
			line += fmt.Sprintf("%*s  ", countWidth, n)
		}
		e.printf("%s", strings.TrimRight(line+classes.Shown(c.Name)+"  "+c.Words, " "))
	}
	if found[0].Pictures != nil && len(found) == all {
		e.printf("%s in %s", plural(total, "picture"), plural(all, "class"))
	}
}

// count returns the names of the classes of the latents or pictures at --data, and how many pictures each has; without
// it the names of ImageNet's.
func (o *classesOptions) count(e *env) (list []string, counts []int, err error) {
	if o.data == "" {
		return classes.ImageNetNames(), nil, nil
	}
	if m, err := latents.ReadManifest(o.data); err == nil {
		set, err := latents.Open(o.data)
		if err != nil {
			e.warn("%v: its classes are not counted", err)
			return m.Dataset.Classes, nil, nil
		}
		defer set.Close()
		counts = make([]int, len(set.Classes()))
		for i := range set.Len() {
			counts[set.Label(i)]++
		}
		return set.Classes(), counts, nil
	}
	src, err := o.pictures.open(e, o.data)
	if err != nil {
		return nil, nil, err
	}
	defer src.Close()
	return src.Classes(), catalog.Counts(src), nil
}
