package pickle

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// What Python 3's pickle.dumps writes for these values.
func TestLoad(t *testing.T) {
	for text, want := range map[string]any{
		"\x80\x04N.": nil, "\x80\x04\x88.": true, "\x80\x04K\x07.": int64(7), "\x80\x04J\xff\xff\xff\xff.": int64(-1),
		"\x80\x04\x8a\x05\x00\x00\x00\x00\x01.": int64(1 << 32),
		"\x80\x04\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01.": Long(
			"\x00\x00\x00\x00\x00\x00\x00\x00\x01"),
		"\x80\x04G?\xf8\x00\x00\x00\x00\x00\x00.":                             1.5,
		"\x80\x04\x95\x08\x00\x00\x00\x00\x00\x00\x00\x8c\x04\xc3\xa4bc\x94.": "\u00e4bc",
		"\x80\x04C\x02\x00\xff\x94.":                                          []byte("\x00\xff"),
		"\x80\x04K\x01\x8c\x01a\x94\x86\x94.":                                 Tuple{int64(1), "a"},
		"\x80\x04]\x94(K\x01K\x02e.":                                          &List{[]any{int64(1), int64(2)}},
		"\x80\x02cargparse\nNamespace\nq\x00)\x81q\x01}q\x02X\x01\x00\x00\x00aK\x01sb.": &Namespace{
			&Dict{Keys: []any{"a"}, Values: []any{int64(1)}, index: map[any]bool{"a": true}}},
		"\x80\x04\x8c\x01x\x8c\x01Y\x93)R.": Opaque{"x.Y"},
	} {
		d := NewDecoder([]byte(text))
		if got, err := d.Load(); err != nil || !reflect.DeepEqual(got, want) || d.Offset() != len(text) {
			t.Errorf("%q: %#v, %v, want %#v", text, got, err, want)
		}
	}
}

// The user of a decoder knows objects and calls; names by which a pickle would act are refused before.
func TestFunctions(t *testing.T) {
	d := NewDecoder(
		[]byte("\x80\x02cmine\nadd\nX\x01\x00\x00\x00k\x85QK\x02\x86R.\x80\x02cmine\nfail\n)R."))
	d.Persistent = func(id Tuple) (any, error) { return int64(len(id)), nil }
	d.Call = func(name string, args Tuple) (any, bool, error) {
		if name == "mine.fail" {
			return nil, true, errors.New("it fails")
		}
		return args[0].(int64) + args[1].(int64), name == "mine.add", nil
	}
	if v, err := d.Load(); v != int64(3) || err != nil {
		t.Errorf("%v, %v, want 3", v, err)
	}
	if _, err := d.Load(); err == nil || !strings.HasSuffix(err.Error(), "mine.fail: it fails") {
		t.Errorf("error %v", err)
	}
	d = NewDecoder([]byte("\x80\x02cos\nsystem\n."))
	if _, err := d.Load(); err == nil || !strings.Contains(err.Error(), "attack") {
		t.Errorf("error %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."))
	f.Add([]byte("\x80\x02ccollections\nOrderedDict\n)R(X\x01\x00\x00\x00aK\x01u."))
	f.Fuzz(func(t *testing.T, text []byte) {
		d := NewDecoder(text)
		d.Persistent = func(id Tuple) (any, error) { return nil, nil }
		if _, err := d.Load(); err == nil && d.Offset() > len(text) {
			t.Errorf("it read %d of %d bytes", d.Offset(), len(text))
		}
	})
}
