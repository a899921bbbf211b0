package archive

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/filename"
	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/labels"
)

func FuzzList(f *testing.F) {
	p := []byte("\x89PNG")
	good := datatest.Tar(f, []datatest.File{{"a/a.png", p}, {"a/a.cls", []byte("3")},
		{strings.Repeat("long/", 40) + "b.jpg", p}, {"c.tar", nil}, {"b.json", []byte(`{"label": 2}`)}})
	f.Add(good)
	f.Add(good[:600])
	f.Add(datatest.Tar(f, []datatest.File{{"a.x.png", p}, {"a.y.png", p}, {"a.x.cls", []byte("cat")}}))
	f.Add(datatest.Tar(f, []datatest.File{{"a.png", p}, {"b.png", p}, {"b.json", []byte(`{"label": "dog"}`)},
		{"a.mask.png", p}, {"a.cls", []byte("cat")}, {"._a.cls", nil}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := List(t.Context(), bytes.NewReader(b), 0, int64(len(b)))
		if err != nil {
			return
		}
		before := len(l.Pictures)
		if err := l.MatchMembers(true); err != nil {
			return
		}
		if n := len(l.Pictures) + l.LeftOut[filename.FurtherPicture]; n != before {
			t.Errorf("%d pictures of %d", n, before)
		}
		for _, m := range l.Pictures {
			if m.Offset < 0 || m.Size < 0 || m.Offset+m.Size > int64(len(b)) || m.Label.Number < 0 ||
				m.Label.Number > labels.MaxNumber {
				t.Errorf("%+v in %d bytes", m, len(b))
			}
		}
	})
}
