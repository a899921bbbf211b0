//go:build unix

package picture

import (
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
)

// The fast form loads more than it needs: never past the picture, though, behind which the memory here cannot be read.
func TestCropStaysInside(t *testing.T) {
	page := os.Getpagesize()
	const most = 3 * 90 * 90
	room := (most + page - 1) / page * page
	b, err := syscall.Mmap(-1, 0, room+page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(b)
	if err := syscall.Mprotect(b[room:], syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		w, h, size := 1+rng.IntN(90), 1+rng.IntN(90), 1+rng.IntN(60)
		c, err := NewCropper(Square(size), PillowClassic)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Crop(make([]uint8, 3*size*size), &Image{W: w, H: h, Pix: b[room-3*w*h : room]}); err != nil {
			t.Fatal(err)
		}
	}
}
