// Package table reads parquet files that nobody vouches for: what a file announces (footer, pages, values, sizes after
// decompression) is compared with the bytes that it has before room is made for it, and pages reach the library whole
// and decompressed.
//
//	file, err := table.Open(f, size)
//	column, err := table.ColumnAt(file, i)
//	for group := range file.Groups() {
//		pages, err := column.Pages(f, size, file, group)
//	}
package table
