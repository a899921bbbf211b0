package torch

/*
#include "dt.h"
#include <stdlib.h>
*/
import "C"

import (
	"slices"
	"strings"
	"unsafe"
)

// ProductChoices returns how matrix products with bias and GELU are computed on GPUs, a line for each that was timed
// in this process or that [SetProductChoices] gave: the product, the device and the version of cuBLASLt, and its
// algorithm, or that the product is made by parts. A process that is given the lines of another one, and has the same
// device and version, computes as that did.
func ProductChoices() (lines []string, err error) {
	defer recoverError(&err)
	var text *C.char
	check("ProductChoices", C.dt_product_choices(&text))
	defer C.free(unsafe.Pointer(text))
	return strings.FieldsFunc(C.GoString(text), func(r rune) bool { return r == '\n' }), nil
}

// SetProductChoices gives lines of [ProductChoices] in place of those there are, none for a beginning, and has other
// products timed from then on. It is for a process that keeps what [ProductChoices] returns, or does not have to repeat
// its bits: without it each product takes the first algorithm that cuBLASLt proposes, as in every other process.
// Products that were computed before keep their algorithms.
func SetProductChoices(lines []string) (err error) {
	defer recoverError(&err)
	text := C.CString(strings.Join(append(slices.Clone(lines), ""), "\n"))
	defer C.free(unsafe.Pointer(text))
	check("SetProductChoices", C.dt_set_product_choices(text))
	return nil
}
