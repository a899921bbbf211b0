package filename

import (
	"regexp"
	"slices"
	"strings"
)

// folderPart finds the name of a part in that of a folder, as a word of its own: Training, val2017, seg_test.
var folderPart = regexp.MustCompile(`(?i)^(|.*[-_. ])` +
	`(train|training|val|valid|validation|dev|eval|evaluation|test|testing)(|[-_. 0-9].*)$`)

// filePart finds the name of a part in that of a file: train-00000-of-00010.parquet.
var filePart = regexp.MustCompile(`(?i)(?:^|[-_/.])(train|training|val|valid|validation|test)(?:[-_/.0-9]|$)`)

// FilePart returns which part of a data set a file is by its name, such as train, "" if by none.
func FilePart(name string) string {
	if m := filePart.FindStringSubmatch(name); m != nil {
		return strings.TrimSuffix(strings.ToLower(m[1]), "ing")
	}
	return ""
}

// FolderPart returns which part of a data set a folder is by its name: train, val or test, "" if by none.
func FolderPart(folder string) string {
	part, _ := splitPart(folder)
	return part
}

// splitPart returns the part that a folder is, and what else its name has in it. Parts of one set agree in that, as
// seg_train and seg_test do, and bullet_train and test_tube do not.
func splitPart(folder string) (part, others string) {
	m := folderPart.FindStringSubmatch(strings.ToLower(folder))
	if m == nil {
		return "", ""
	}
	switch m[2][0] {
	case 'v', 'd', 'e':
		part = "val"
	default:
		part = strings.TrimSuffix(m[2], "ing")
	}
	return part, m[1] + "/" + m[3]
}

// Parts returns those of the folders that are parts of one data set, none where fewer than two are.
func Parts(folders []string) []string {
	type group struct{ names, parts []string }
	groups := map[string]*group{}
	for _, name := range folders {
		part, others := splitPart(name)
		if part == "" {
			continue
		}
		g := groups[others]
		if g == nil {
			g = &group{}
			groups[others] = g
		}
		g.names = append(g.names, name)
		if !slices.Contains(g.parts, part) {
			g.parts = append(g.parts, part)
		}
	}
	var most []string
	for _, g := range groups {
		if len(g.parts) > 1 && (len(g.names) > len(most) || len(g.names) == len(most) && g.names[0] < most[0]) {
			most = g.names
		}
	}
	return most
}
