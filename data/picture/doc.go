// Package picture decodes pictures to 8-bit RGB and crops them, with the pixels of Pillow and of ADM's centre crop,
// with which the published DiT models were trained.
//
//	img, err := picture.Decode(b)                                  // JPEG, PNG, GIF, BMP, TIFF, WebP, netpbm
//	crop, err := picture.NewCropper(picture.Square(256), picture.PillowClassic)
//	err = crop.Crop(pix, img)                                      // [H, W, 3]
//
// An [Image] is an image.Image too, and [FromImage] makes one of any other: see the [example].
//
// What is not read is refused by its kind. A hostile file costs no more memory than [Header.Memory] says.
//
// [example]: https://pkg.go.dev/github.com/ditrun/ditrun/data/picture#example-package
package picture
