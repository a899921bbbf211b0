package sampling

import (
	"fmt"

	"github.com/ditrun/ditrun/data/tokens"
	"github.com/ditrun/ditrun/dit"
	"github.com/ditrun/ditrun/internal/names"
)

// Encode encodes prompts, a caption for each, and a negative prompt, which may be empty: Captions and Null of a
// [Request]. Equal prompts share their states. The encoder has to pass [Pipeline.CheckEncoder].
func (p *Pipeline) Encode(encoder tokens.Encoder, prompts []string, negative string) (captions []Caption, null Caption,
	err error) {
	if err := p.CheckEncoder(encoder); err != nil {
		return nil, null, err
	}
	texts, index := []string{negative}, map[string]int{}
	for _, prompt := range prompts {
		if _, ok := index[prompt]; !ok {
			index[prompt] = len(texts)
			texts = append(texts, prompt)
		}
	}
	n := encoder.Info().Length * encoder.Info().Width
	states, lengths := make([]float32, len(texts)*n), make([]int32, len(texts))
	if err := encoder.Encode(texts, states, lengths); err != nil {
		return nil, null, err
	}
	encoded := make([]Caption, len(texts))
	for i := range encoded {
		// States of fewer tokens are filled up: the model does not look at what is past the end of a caption.
		filled := make([]float32, p.info.Config.TextLength*p.info.Config.TextWidth)
		copy(filled, states[i*n:(i+1)*n])
		encoded[i] = Caption{States: filled, Length: int(lengths[i])}
	}
	for _, prompt := range prompts {
		captions = append(captions, encoded[index[prompt]])
	}
	return captions, encoded[0], nil
}

// CheckEncoder returns an error unless the model was trained with this text encoder, which [Pipeline.Info] names. Of
// states that another program made ([tokens.States]) the name of the encoder counts alone.
func (p *Pipeline) CheckEncoder(encoder tokens.Encoder) error {
	e, cfg, trained := encoder.Info(), p.info.Config, p.info.TextEncoder
	if e.Length > cfg.TextLength || e.Width != cfg.TextWidth {
		return fmt.Errorf("the text encoder makes %s of width %d, the model takes up to %d of width %d",
			names.Plural(e.Length, "token"), e.Width, cfg.TextLength, cfg.TextWidth)
	}
	if trained == (dit.TextEncoder{}) { // the checkpoint does not say
		return nil
	}
	// The checksum of a file of states is that of the captions in it, and the prompts are others.
	_, fromFile := encoder.(*tokens.States)
	if e.Name != trained.Name || !fromFile && e.SHA256 != trained.SHA256 {
		return fmt.Errorf("the text encoder is %s (%.12s), the model was trained with %s (%.12s)", e.Name, e.SHA256,
			trained.Name, trained.SHA256)
	}
	return nil
}
