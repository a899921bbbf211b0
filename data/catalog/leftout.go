package catalog

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/data/store"
)

// leftOut counts the files of a source that are not taken for pictures, by their kind.
type leftOut map[string]int

// leave counts one file of a kind, such as ".txt" or "hidden".
func (l leftOut) leave(kind string) { l[kind]++ }

// notes is the line for the user, none where nothing was left out.
func (l leftOut) notes() []string {
	if len(l) == 0 {
		return nil
	}
	return []string{l.String()}
}

// String words the counts in one line, the largest first: "left out: 6 .heic, 2 in .ipynb_checkpoints, 1 .txt".
func (l leftOut) String() string {
	kinds := make([]string, 0, len(l))
	for kind := range l {
		kinds = append(kinds, kind)
	}
	slices.SortFunc(kinds, func(a, b string) int { return cmp.Or(cmp.Compare(l[b], l[a]), cmp.Compare(a, b)) })
	const most = 8
	others := 0
	for i, kind := range kinds {
		if i >= most {
			others += l[kind]
		}
		kinds[i] = fmt.Sprintf("%d %s", l[kind], kind)
	}
	if others > 0 {
		kinds = append(kinds[:most], fmt.Sprintf("%d others", others))
	}
	return "left out: " + strings.Join(kinds, ", ")
}

// systemFolders are made by programs and systems, not by people who sort pictures.
var systemFolders = []string{
	"__MACOSX", "@eaDir", "@Recycle", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information",
	"lost+found", "__pycache__",
}

// isSystem says whether a file or folder of this base name belongs to a system or a program: hidden ones, such as
// .ipynb_checkpoints, .git and the ._* files of macOS, PaxHeaders of archives that were unpacked by an old tar, and the
// folders of systemFolders.
func isSystem(base string) bool {
	return strings.HasPrefix(base, ".") || strings.HasPrefix(base, "PaxHeaders") || slices.Contains(systemFolders, base)
}

// systemFolder returns the first folder of a slash-separated path that belongs to a system or a program, "" if none
// does.
func systemFolder(dir string) string {
	for dir != "" {
		folder, below, _ := strings.Cut(dir, "/")
		if isSystem(folder) {
			return folder
		}
		dir = below
	}
	return ""
}

// kindLeftOut says why the file at a slash-separated path in a source is not taken for a picture, "" if it is taken:
// "in .ipynb_checkpoints" for files in system folders, "hidden" for hidden files, else the extension.
func kindLeftOut(name string) string {
	dir, base := path.Split(name)
	if folder := systemFolder(dir); folder != "" {
		return "in " + folder
	}
	switch ext := strings.ToLower(path.Ext(base)); {
	case isSystem(base):
		return "hidden"
	case IsPicture(base):
		return ""
	case ext == "":
		return "without extension"
	default:
		return ext
	}
}

// pictures returns the pictures of a set, and counts its other files.
func pictures(set *store.Set) (*store.Set, leftOut) {
	out := leftOut{}
	return set.Select(func(o *store.Object) bool {
		kind := kindLeftOut(o.Name)
		if kind != "" && o.Err != nil && !ofSystem(o.Name) {
			kind = "that cannot be read"
		}
		if kind != "" {
			out.leave(kind)
		}
		return kind == ""
	}), out
}
