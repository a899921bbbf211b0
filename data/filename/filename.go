// Package filename tells what a file or folder of a data set is by its name alone: a picture, an archive, something
// that a system or a program left there, or one part of the set, such as train or test.
//
//	if why := filename.WhyLeftOut("cats/.DS_Store"); why != "" { // "hidden"
//		left.Count(why)
//	}
//	filename.Parts([]string{"seg_train", "seg_test", "notes"}) // seg_train, seg_test
//
// Names are paths within the set, with slashes.
package filename

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

// PictureExtensions are the extensions torchvision's ImageFolder takes for pictures, and GIF, as a message lists them.
// What a file holds is still told by its content.
const PictureExtensions = ".jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp .gif"

var pictureExtensions = strings.Fields(PictureExtensions)

// IsPicture says whether a file is called like a picture.
func IsPicture(name string) bool {
	return slices.Contains(pictureExtensions, strings.ToLower(path.Ext(name)))
}

var archiveName = regexp.MustCompile(`(?i)\.(tar|tar\.gz|tgz|tar\.zst|tzst|parquet)$`)

// IsArchive says whether a file is called like one that holds many pictures.
func IsArchive(name string) bool { return archiveName.MatchString(name) }

// Stem is a file name without folder and extension.
func Stem(name string) string {
	base := path.Base(name)
	return strings.TrimSuffix(base, path.Ext(base))
}

// systemFolders are made by programs and systems, not by people who sort pictures.
var systemFolders = []string{
	"__MACOSX", "@eaDir", "@Recycle", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information",
	"lost+found", "__pycache__",
}

// IsSystem says whether a file or folder of this base name belongs to a system or a program: hidden ones, such as
// .ipynb_checkpoints, .git and the ._* files of macOS, PaxHeaders of archives that an old tar unpacked, and folders
// such as __MACOSX.
func IsSystem(base string) bool {
	return strings.HasPrefix(base, ".") || strings.HasPrefix(base, "PaxHeaders") || slices.Contains(systemFolders, base)
}

// SystemFolder returns the first folder of a path that belongs to a system or a program, "" if none does.
func SystemFolder(dir string) string {
	for dir != "" {
		folder, below, _ := strings.Cut(dir, "/")
		if IsSystem(folder) {
			return folder
		}
		dir = below
	}
	return ""
}

// BelongsToSystem says whether a file, or a folder on its path, belongs to a system or a program.
func BelongsToSystem(name string) bool {
	dir, base := path.Split(name)
	return IsSystem(base) || SystemFolder(dir) != ""
}
