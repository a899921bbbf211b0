// Package table reads parquet files that nobody vouches for, and in them tables of pictures, as Hugging Face's datasets
// writes them, with labels and texts:
//
//	err := table.Pictures(ctx, f, size, func(p table.Picture) error { ... }) // image {bytes, path}, label
//	names, err := table.ClassNames(f, size)
//	err = table.Texts(ctx, f, size, []string{"caption"}, rows, func(row int, text []byte) error { ... })
//
// What a file announces (footer, pages, values, sizes after decompression) is compared with the bytes that it has
// before room is made for it, and pages reach the library whole and decompressed:
//
//	file, err := table.Open(f, size)
//	column, err := table.ColumnAt(file, i)
//	for group := range file.Groups() {
//		pages, err := column.Pages(f, size, file, group)
//	}
package table
