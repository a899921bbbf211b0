package sampling

import (
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/dit"
)

// A lengthEncoder makes 2 tokens of width 3, of which each number is the length of the text.
type lengthEncoder struct {
	info  tokens.EncoderInfo
	texts []string // of the last call
}

func (e *lengthEncoder) Info() tokens.EncoderInfo { return e.info }

func (e *lengthEncoder) Encode(texts []string, states []float32, lengths []int32) error {
	e.texts = texts
	for i, text := range texts {
		for k := range 6 {
			states[6*i+k] = float32(len(text))
		}
		lengths[i] = int32(1 + len(text)%2)
	}
	return nil
}

func TestEncode(t *testing.T) {
	p := &Pipeline{info: dit.Info{TextEncoder: dit.TextEncoder{Name: "toy", SHA256: "1234"}}}
	p.info.Config.SetCondition(dit.OnText, 0, 3, 4)
	toy := tokens.EncoderInfo{Name: "toy", SHA256: "1234", Length: 2, Width: 3}
	e := &lengthEncoder{info: toy}
	captions, null, err := p.Encode(e, []string{"shoe", "boots", "shoe"}, "blue shoes")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"blue shoes", "shoe", "boots"}; !slices.Equal(e.texts, want) {
		t.Errorf("encoded %q, want %q", e.texts, want)
	}
	for i, c := range append(captions, null) {
		n := []float32{4, 5, 4, 10}[i]
		if want := []float32{n, n, n, n, n, n, 0, 0, 0, 0, 0, 0}; !slices.Equal(c.States, want) ||
			c.Length != []int{1, 2, 1, 1}[i] {
			t.Errorf("caption %d: %d tokens %v, want %v", i, c.Length, c.States, want)
		}
	}
	if &captions[0].States[0] != &captions[2].States[0] {
		t.Error("equal prompts have states of their own")
	}

	for _, c := range []struct {
		change func(*tokens.EncoderInfo)
		want   string
	}{
		{func(i *tokens.EncoderInfo) { i.Length = 5 }, "makes 5 tokens of width 3, the model takes up to 4 of width 3"},
		{func(i *tokens.EncoderInfo) { i.Width = 2 }, "makes 2 tokens of width 2, the model takes up to 4 of width 3"},
		{func(i *tokens.EncoderInfo) { i.Name = "other" },
			"the text encoder is other (1234), the model was trained with toy (1234)"},
		{func(i *tokens.EncoderInfo) { i.SHA256 = "56" }, "is toy (56), the model was trained with toy (1234)"},
	} {
		e.info = toy
		c.change(&e.info)
		if _, _, err := p.Encode(e, []string{"shoe"}, ""); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	p.info.TextEncoder = dit.TextEncoder{} // as in a checkpoint that does not say
	if err := p.CheckEncoder(&lengthEncoder{info: tokens.EncoderInfo{Name: "any", Length: 4, Width: 3}}); err != nil {
		t.Error(err)
	}
}
