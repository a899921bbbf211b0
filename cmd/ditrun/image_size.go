package main

import (
	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/data/picture"
)

// sizeValue is the value of a flag that takes a size; the zero value stands for one that was not given.
type sizeValue picture.Size

func (v *sizeValue) Set(text string) error {
	if text == "0" { // as a configuration has it that was written without one
		*v = sizeValue{}
		return nil
	}
	size, err := picture.ParseSize(text)
	if err == nil {
		*v = sizeValue(size)
	}
	return err
}

func (v *sizeValue) String() string {
	if *v == (sizeValue{}) {
		return ""
	}
	return picture.Size(*v).String()
}

// Get is for configurations, where a size that was not given is 0.
func (v *sizeValue) Get() any { return picture.Size(*v) }

// imageSizeVar is --image-size, kept in size, which stays zero where the flag is not given. byDefault says in words
// what it is then.
func imageSizeVar(size *picture.Size, byDefault, usage string) cli.Flag {
	return &cli.GenericFlag{Name: "image-size", Value: (*sizeValue)(size), DefaultText: byDefault, Usage: usage}
}
