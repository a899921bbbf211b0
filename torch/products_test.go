package torch_test

import (
	"slices"
	"testing"

	"github.com/ditrun/ditrun/torch"
)

func TestProductChoices(t *testing.T) {
	before, err := torch.ProductChoices()
	if err != nil {
		t.Fatal(err)
	}
	defer torch.SetProductChoices(before)
	lines := []string{"bias bfloat16 tn 1x2x3 align 16 on A GPU, cuBLASLt 130100 = 00ff", "product on B = parts"}
	if err := torch.SetProductChoices(append(slices.Clone(lines), "no choice")); err != nil {
		t.Fatal(err)
	}
	if got, err := torch.ProductChoices(); err != nil || !slices.Equal(got, lines) {
		t.Errorf("%q, %v; want %q", got, err, lines)
	}
	if err := torch.SetProductChoices(nil); err != nil {
		t.Fatal(err)
	}
	if got, err := torch.ProductChoices(); err != nil || len(got) > 0 {
		t.Errorf("%q, %v; want none", got, err)
	}
}
