package testtool

import "testing"

// ending records how a test ended.
type ending struct {
	testing.TB
	name string
}

func (e *ending) Helper() {}

func (e *ending) Fatal(...any) { e.end("failed") }
func (e *ending) Skip(...any)  { e.end("skipped") }

func (e *ending) end(name string) {
	if e.name == "" { // the methods of a real test do not return
		e.name = name
	}
}

func TestMissing(t *testing.T) {
	for ci, want := range map[string]string{"": "skipped", "1": "failed"} {
		t.Setenv("CI", ci)
		e := &ending{}
		if Missing(e, "no go command"); e.name != want {
			t.Errorf("CI=%q: the test %s, want %s", ci, e.name, want)
		}
	}
}
