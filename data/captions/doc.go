// Package captions finds the texts that describe the samples of a source: in files of captions, in what lies beside the
// pictures of archives and tables, or made from class names.
//
//	set, err := captions.Read(ctx, []string{"data", "class:a photo of a {}"}, src)
//	for _, k := range set.Of(i) {
//		text := set.Texts[k]
//	}
package captions
