package encode

import (
	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/dit/text"
	"github.com/ditrun/ditrun/torch"
)

// TextEncoder makes an encoder of package text one that tokens.Write takes. It computes in Float32, on a GPU too:
// states are made once and used in every epoch.
func TextEncoder(e *text.Encoder) tokens.Encoder { return textEncoder{e} }

type textEncoder struct{ *text.Encoder }

func (t textEncoder) Info() tokens.EncoderInfo {
	return tokens.EncoderInfo{Name: t.Name(), SHA256: t.SHA256(), Length: t.Length(), Width: t.Width()}
}

func (t textEncoder) Encode(texts []string, states []float32, lengths []int32) error {
	return torch.Run(t.Device(), func(s *torch.Scope) error {
		out, counts := t.Encoder.Encode(s, texts)
		copy(states, torch.Data[float32](out))
		for i, n := range counts {
			lengths[i] = int32(n)
		}
		return nil
	})
}
