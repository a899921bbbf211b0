package idx

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// imagesName is the usual name of a file of pictures.
var imagesName = regexp.MustCompile(`(?i)images[-.]idx3-ubyte(\.gz)?$`)

// IsImages says whether a file is called like one of pictures.
func IsImages(name string) bool { return imagesName.MatchString(name) }

// Choose picks the image file of a split, "train" or "test" (files named t10k or test); "" takes train, and test only
// where there is nothing else.
func Choose(images []string, split string) (string, error) {
	if len(images) == 0 {
		return "", errors.New("no IDX image file (train-images-idx3-ubyte)")
	}
	var train, test, other []string
	for _, name := range images {
		switch low := strings.ToLower(name); {
		case strings.Contains(low, "train"):
			train = append(train, name)
		case strings.Contains(low, "t10k"), strings.Contains(low, "test"):
			test = append(test, name)
		default:
			other = append(other, name)
		}
	}
	of := train
	switch {
	case split == "test":
		of = test
	case split == "" && len(train) == 0 && len(other) > 0:
		of = other
	case split == "" && len(train) == 0:
		of = test
	}
	// Both a file and its compressed twin may be there.
	of = slices.CompactFunc(slices.Sorted(slices.Values(of)), func(a, b string) bool {
		return strings.TrimSuffix(a, ".gz") == strings.TrimSuffix(b, ".gz")
	})
	if len(of) == 0 {
		return "", fmt.Errorf("no IDX image file for split %q, found %s", split, strings.Join(images, ", "))
	}
	if len(of) > 1 {
		return "", fmt.Errorf("several IDX image files: name one of %s", strings.Join(of, ", "))
	}
	return of[0], nil
}

// LabelName is the usual name of the labels that go with an image file, without .gz.
func LabelName(images string) string {
	return strings.NewReplacer("images", "labels", "idx3", "idx1").Replace(strings.TrimSuffix(images, ".gz"))
}

// LabelsOf returns the one of the label files, which are sorted, that goes with an image file.
func LabelsOf(images string, labels []string) (string, bool) {
	want := LabelName(images)
	for _, l := range labels { // the plain file before its .gz
		if strings.TrimSuffix(l, ".gz") == want {
			return l, true
		}
	}
	return "", false
}
