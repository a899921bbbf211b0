package sampling

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"slices"
	"testing"

	"github.com/ditrun/ditrun/data/captions"
	"github.com/ditrun/ditrun/data/latents"
	"github.com/ditrun/ditrun/data/latents/latentstest"
	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/torchtest"
)

func TestNewPreview(t *testing.T) {
	dir := latentstest.Make(t, latentstest.Plan(30))
	set, err := latents.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	texts, err := captions.OfClasses([]string{"class:a photo of {}"}, set.Classes(), set.LabelsByID())
	if err != nil {
		t.Fatal(err)
	}
	e := &lengthEncoder{info: tokens.EncoderInfo{Name: "toy", SHA256: "1234", Length: 2, Width: 3}}
	if _, err := tokens.Write(context.Background(), dir, texts, e, tokens.Options{}); err != nil {
		t.Fatal(err)
	}
	cfg := dit.XL2
	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprint("class ", i))
	}
	for _, c := range []struct {
		condition dit.ConditionKind
		side      int // of the pictures
		classes   []string
		columns   int
		first     []string // of the words
		total     int
		scale     float64
	}{
		{dit.OnClass, 256, set.Classes(), 3, []string{"a", "b", "c", "a"}, 12, 4},
		{dit.OnClass, 256, many, 10, []string{"class 0", "class 100", "class 200"}, 40, 4},
		{dit.OnClass, 512, many, 7, []string{"class 0", "class 142", "class 285"}, 28, 4}, // as many as a sheet holds
		{dit.OnClass, 1024, many, 3, []string{"class 0", "class 333", "class 666"}, 9, 4},
		{dit.OnClass, 5000, many, 1, []string{"class 0"}, 1, 4},
		{dit.OnText, 256, nil, 4,
			[]string{"a photo of a", "a photo of a", "a photo of a", "a photo of a", "a photo of c"},
			12, 4},
		{dit.OnText, 1000, nil, 3, []string{"a photo of a", "a photo of a", "a photo of a", "a photo of c"}, 9, 4},
		{dit.OnTextAndClass, 256, set.Classes(), 4, []string{"a photo of a"}, 12, 4},
		{dit.OnNothing, 256, nil, 0, nil, 40, 1},
		{dit.OnNothing, 1024, nil, 0, nil, 9, 1},
	} {
		cfg.SetCondition(c.condition, len(c.classes), 3, 2)
		size := image.Pt(c.side, c.side)
		p, err := NewPreview(cfg, size, c.classes, set, 5)
		if err != nil {
			t.Fatal(err)
		}
		r := p.Request
		var words []string
		for _, l := range p.Labels {
			words = append(words, l.Text)
		}
		options := sheet.Options{Labels: p.Labels, Columns: p.Columns, Title: "step 1, guidance 4"}
		if err := sheet.Check(size, r.Len(), options); err != nil {
			t.Errorf("%v: %v", c.condition, err)
		}
		if p.Columns != c.columns || r.Len() != c.total || r.Seed != 5 || r.CFGScale != c.scale ||
			!slices.Equal(words[:min(len(words), len(c.first))], c.first) {
			t.Errorf("%v: %d pictures in rows of %d, %q, %+v", c.condition, r.Len(), p.Columns, words, r)
		}
		if n := len(words); n != r.Len() && c.condition != dit.OnNothing {
			t.Errorf("%v: %d words under %d pictures", c.condition, n, r.Len())
		}
		if err := r.prepare(cfg); err != nil {
			t.Errorf("%v: %v", c.condition, err)
		}
	}
	cfg.SetCondition(dit.OnClass, 3, 0, 0)
	cfg.ClassDropoutProb = 0
	if p, err := NewPreview(cfg, image.Pt(64, 64), set.Classes(), set, 0); err != nil || p.Request.CFGScale != 1 {
		t.Errorf("without a null class: %v, %+v", err, p)
	}
}

func TestPicturesToImages(t *testing.T) {
	p := Pictures{Pix: []uint8{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, Height: 2, Width: 1}
	if p.Len() != 2 || (Pictures{}).Len() != 0 {
		t.Errorf("%d pictures, want 2", p.Len())
	}
	if r, g, b, a := p.Images()[1].At(0, 1).RGBA(); r>>8 != 10 || g>>8 != 11 || b>>8 != 12 || a>>8 != 255 {
		t.Errorf("%d, %d, %d, %d", r>>8, g>>8, b>>8, a>>8)
	}
}

// A preview takes no memory for modulations: they are computed in each step, which gives other bits.
func TestPreviewWithoutTable(t *testing.T) {
	torchtest.Run(t, func(s *torch.Scope) error {
		_, m := trained(t, s)
		s = s.NoGrad()
		p := Preview{Request: Request{Labels: []int{2, 7}, CFGScale: 4, Steps: "5", Seed: 3}}
		z, err := p.latents(t.Context(), s, m)
		if err != nil {
			return err
		}
		for _, table := range []bool{false, true} {
			want := drawnHow(t, s, m, p.Request, how{table: table})[0]
			if same := bytes.Equal(z.Bytes(), want); same == table {
				t.Errorf("the latents are those drawn with table %v: %v", table, same)
			}
		}
		return nil
	})
}
