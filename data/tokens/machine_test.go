package tokens

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/latents/latentstest"
)

// An error of the machine is not taken for one of the files: nobody is told to make them again, or to delete them.
func TestErrorsOfTheMachine(t *testing.T) {
	dir := latentstest.Make(t, latentstest.Plan(10))
	if _, err := Write(t.Context(), dir, latentstest.CaptionsOfIDs(t, 10), &wordEncoder{sum: "s"},
		textOptions); err != nil {
		t.Fatal(err)
	}
	l, err := latents.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	check := func(what string, err error) {
		if !errors.Is(err, syscall.EMFILE) {
			t.Errorf("%s: %v", what, err)
			return
		}
		for _, advice := range []string{"again", "delete", "damaged", "choose another"} {
			if strings.Contains(err.Error(), advice) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	datatest.WithoutDescriptors(t, func() {
		_, err := Of(l)
		check("captions", err)
		_, err = latents.Open(dir)
		check("latents", err)
		_, err = latents.NewWriter(dir, l.Manifest().Plan)
		check("writer", err)
	})
}
