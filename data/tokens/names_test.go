package tokens

import (
	"slices"
	"testing"

	"github.com/ditrun/ditrun/torch/checkpoint"
)

const (
	composed   = "caf\u00e9"  // as Linux and Windows write it
	decomposed = "cafe\u0301" // as macOS does
)

// The states of a caption are those of the same text in the other form, unless the file has both.
func TestStatesOfTheOtherForm(t *testing.T) {
	states, err := OpenStates(statesFile(t, checkpoint.F32, 4, []int32{1, 1, 1, 1},
		map[string]string{"encoder": "e",
			"captions": `["","` + decomposed + `","u\u0308","\u00fc"]`}))
	if err != nil {
		t.Fatal(err)
	}
	defer states.Close()
	got, lengths := make([]float32, 4*6), make([]int32, 4)
	if err := states.Encode([]string{composed, decomposed, "\u00fc", "u\u0308"}, got, lengths); err != nil {
		t.Fatal(err)
	}
	if rows := []float32{got[0], got[6], got[12], got[18]}; !slices.Equal(rows, []float32{1.5, 1.5, 4.5, 3}) {
		t.Errorf("states %v, want those of rows 1, 1, 3 and 2", rows)
	}
	if err := states.Check([]string{"cafe"}); err == nil {
		t.Error("a caption without its accent is in the file")
	}
}
