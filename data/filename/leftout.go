package filename

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/internal/names"
)

// LeftOut counts the files of a source that are not taken for pictures, by the reason: ".txt", "hidden".
type LeftOut map[string]int

// Reasons that are nouns: what one file is.
const (
	Link           = "link"
	Device         = "pipe or device"
	FurtherPicture = "further picture of a sample"
)

// several are those of more than one file.
var several = map[string]string{Link: "links", Device: "pipes or devices",
	FurtherPicture: "further pictures of a sample"}

// Count adds one file.
func (l LeftOut) Count(reason string) { l[reason]++ }

// Add adds the counts of others.
func (l LeftOut) Add(others LeftOut) {
	for reason, n := range others {
		l[reason] += n
	}
}

// Notes is the line for the user, none where nothing was left out.
func (l LeftOut) Notes() []string {
	if len(l) == 0 {
		return nil
	}
	return []string{l.String()}
}

// String words the counts in one line, the largest first: "left out: 6 .heic, 2 in .ipynb_checkpoints, 1 .txt".
func (l LeftOut) String() string {
	reasons := make([]string, 0, len(l))
	for reason := range l {
		reasons = append(reasons, reason)
	}
	slices.SortFunc(reasons, func(a, b string) int { return cmp.Or(cmp.Compare(l[b], l[a]), cmp.Compare(a, b)) })
	const most = 8
	others := 0
	for i, reason := range reasons {
		if i >= most && len(reasons) > most+1 {
			others += l[reason]
		}
		if many := several[reason]; many != "" && l[reason] > 1 {
			reason = many
		}
		reasons[i] = fmt.Sprintf("%d %s", l[reasons[i]], reason)
	}
	if others > 0 {
		reasons = append(reasons[:most], names.Plural(others, "other"))
	}
	return "left out: " + strings.Join(reasons, ", ")
}

// WhyLeftOut says why a file is not taken for a picture, "" if it is: "in .ipynb_checkpoints" for files in system
// folders, "hidden" for hidden files, else the extension.
func WhyLeftOut(name string) string {
	dir, base := path.Split(name)
	if folder := SystemFolder(dir); folder != "" {
		return "in " + folder
	}
	switch ext := strings.ToLower(path.Ext(base)); {
	case IsSystem(base):
		return "hidden"
	case IsPicture(base):
		return ""
	case ext == "":
		return "without extension"
	default:
		return ext
	}
}
