package namemap

import (
	"strings"
	"testing"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

func TestMapAndSection(t *testing.T) {
	src := checkpoint.Memory([]checkpoint.Tensor{
		{Info: checkpoint.Info{Name: "m.a", DType: checkpoint.F32, Shape: []int64{3, 1}}, Data: []byte("aaaabbbbcccc")},
		{Info: checkpoint.Info{Name: "m.b", DType: checkpoint.F32, Shape: []int64{2, 1}}, Data: []byte("ddddeeee")},
		{Info: checkpoint.Info{Name: "m.h", DType: checkpoint.BF16, Shape: []int64{1, 1}}, Data: []byte("hh")},
		{Info: checkpoint.Info{Name: "other", DType: checkpoint.U8, Shape: []int64{1}}, Data: []byte("x")},
	})
	in := Section(src, "m.")
	rows := func(name string, from, to, n int64) Part {
		return Part{Name: name, Shape: []int64{n, 1}, From: from, To: to}
	}
	out, err := Map(in, []Entry{
		{Name: "x", Shape: []int64{5, 1}, Parts: []Part{rows("b", 1, 2, 2), Whole("a", 3, 1), Values([]float32{1})}},
		{Name: "y", Shape: []int64{2, 1}, Parts: []Part{Whole("h", 1, 1), Values([]float32{1.5})}},
		{Name: "z", Shape: []int64{3}, Parts: []Part{Whole("a", 3, 1)}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"x": "eeeeaaaabbbbcccc\x00\x00\x80\x3f", "y": "hh\xc0\x3f",
		"z": "aaaabbbbcccc"} {
		got, err := checkpoint.Read(out, name)
		if err != nil || string(got) != want {
			t.Errorf("%s = %q, %v, want %q", name, got, err, want)
		}
		for lo := range len(want) {
			for hi := lo; hi <= len(want); hi++ {
				p := make([]byte, hi-lo)
				if err := out.ReadAt(p, name, int64(lo)); err != nil || string(p) != want[lo:hi] {
					t.Fatalf("%s[%d:%d] = %q, %v", name, lo, hi, p, err)
				}
			}
		}
	}
	_, err = Map(in, []Entry{
		{Name: "x", Shape: []int64{3, 2}, Parts: []Part{Whole("a", 3, 2)}},
		{Name: "y", Shape: []int64{1}, Parts: []Part{Whole("none", 1)}},
		{Name: "z", Shape: []int64{3, 1}, Parts: []Part{Whole("b", 2, 1), Whole("h", 1, 1)}},
	}, nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"1 missing: none", "a (have [3 1], want [3 2])", "h (have BF16 beside F32)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q, want one with %q", err, want)
		}
	}
	if _, err := Map(in, nil, func(name string) bool { return name == "a" }); err == nil ||
		!strings.Contains(err.Error(), "2 unexpected: b, h") {
		t.Errorf("error %v, want the unexpected names", err)
	}
	if err := out.ReadAt(make([]byte, 2), "z", 11); err == nil {
		t.Error("a range outside the tensor gives no error")
	}
}
