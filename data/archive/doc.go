// Package archive reads tar archives of pictures in place, by their headers: pictures with their offsets, archives
// within the archive, and the labels and other members that lie beside pictures, as WebDataset packs them.
//
//	l, err := archive.List(ctx, f, 0, size)
//	err = l.MatchMembers(true) // a.cls or a.json labels a.jpg
//	for _, p := range l.Pictures {
//		b := io.NewSectionReader(f, p.Offset, p.Size) // of p.Label
//	}
//
// The members of one sample share the name up to its first dot. What cannot be read in place, a compressed archive, is
// unpacked first by [Gunzip] or [Unzstd]. An archive that is cut short is an error, however it was cut.
package archive
