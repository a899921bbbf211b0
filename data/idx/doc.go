// Package idx reads IDX files, the format of MNIST and its relatives, plain or gzip: two zero bytes, the type of the
// elements, the number of dimensions, the dimensions as big-endian 32-bit numbers, then the elements. Those of pictures
// are bytes [N, rows, columns], those of labels bytes [N].
//
//	dims, pix, err := idx.Read(f, size, idx.Images, picture.MaxPixels)
//	dims, labels, err := idx.Read(g, size, idx.Labels, 1)
//
// The two lie beside each other, and are paired by name: train-images-idx3-ubyte, train-labels-idx1-ubyte. What a
// header announces is compared with the size of the file before it is believed.
package idx
