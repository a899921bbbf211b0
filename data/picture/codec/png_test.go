package codec

import (
	"bytes"
	"image"
	"image/png"
	"math"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// photo is a picture with the noise and the edges of one, as PNG.
func photo(t testing.TB, side int) []byte {
	t.Helper()
	m := image.NewNRGBA(image.Rect(0, 0, side, side))
	state := uint32(1)
	for i := 0; i < len(m.Pix); i += 4 {
		x, y := float64(i/4%side), float64(i/4/side)
		for c := range 3 {
			state = state*1664525 + 1013904223
			v := 128 + 80*math.Sin(x/(30+9*float64(c)))*math.Cos(y/41) + float64(state>>24)/32
			if int(x)/100%3 == int(y)/150%2 {
				v += 40
			}
			m.Pix[i+c] = uint8(v)
		}
		m.Pix[i+3] = 255
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// BenchmarkPNG decodes a picture of 1024 x 1024 pixels by turns here and with image/png, and says how many times as
// long the latter takes: the shortest times of the processor, which other programs disturb least.
func BenchmarkPNG(b *testing.B) {
	const side = 1024
	file, dst := photo(b, side), make([]byte, 3*side*side)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	now := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	ours, gos := time.Hour, time.Hour
	for b.Loop() {
		start := now()
		if _, err := PNG(file, dst, side, side); err != nil {
			b.Fatal(err)
		}
		ours = min(ours, now()-start)
		start = now()
		if _, err := png.Decode(bytes.NewReader(file)); err != nil {
			b.Fatal(err)
		}
		gos = min(gos, now()-start)
	}
	b.ReportMetric(ours.Seconds()*1e3, "ms/here")
	b.ReportMetric(gos.Seconds()*1e3, "ms/image-png")
	b.ReportMetric(gos.Seconds()/ours.Seconds(), "ratio")
}
