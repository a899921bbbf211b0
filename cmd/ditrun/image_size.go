package main

import (
	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/data/picture"
)

// sizeValue is the value of a flag that takes a size; the zero value stands for one that was not given.
type sizeValue struct{ picture.Size }

func (v *sizeValue) Set(text string) (err error) {
	if text == "0" { // as a configuration has it that was written without one
		v.Size = picture.Size{}
		return nil
	}
	v.Size, err = picture.ParseSize(text)
	return err
}

func (v *sizeValue) String() string {
	if v.Size == (picture.Size{}) {
		return ""
	}
	return v.Size.String()
}

// Get is for configurations, where a size that was not given is 0.
func (v *sizeValue) Get() any { return v.Size }

// imageSizeFlag is --image-size. byDefault says in words what it is where the flag is not given.
func imageSizeFlag(byDefault, usage string) cli.Flag {
	return &cli.GenericFlag{Name: "image-size", Value: &sizeValue{}, DefaultText: byDefault, Usage: usage}
}

// imageSize is the value of --image-size, or else size.
func (e *env) imageSize(size picture.Size) picture.Size {
	if v := e.flags.Generic("image-size").(*sizeValue); v.Size != (picture.Size{}) {
		return v.Size
	}
	return size
}
