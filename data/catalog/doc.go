// Package catalog lists the pictures of a data set, with their names, labels and classes, wherever they are: class
// folders, archives, tables, IDX files, here or at S3. The same set has the same sample ids in every container.
//
//	src, err := catalog.Open(ctx, "train-*.tar", catalog.Options{})
//	defer src.Close()
//	for i := range src.Len() {
//		sample := src.Sample(i)   // name, label
//		img, err := src.Image(i)  // decoded, at its full size
//	}
//
// Nothing is decided in silence: what is left out, and whatever else a user would want to know, is in Source.Notes;
// a label that is missing or impossible is an error that says where. A Go program may bring a [Source] of its own,
// which can offer more with the methods of [RawSource] and [MemberSource].
//
// The formats themselves are read by packages below: archive, table and idx read files, labels says which class a
// picture is of, filename what a file is by its name, classes what classes are called, store where the bytes are. What
// is here decides what a location holds and makes one list of it. The [example] opens a folder.
//
// [example]: https://pkg.go.dev/github.com/ditrun/ditrun/data/catalog#example-package
package catalog
