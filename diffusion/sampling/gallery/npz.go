package gallery

import (
	"bytes"

	"github.com/ditrun/ditrun/torch/checkpoint/numpy"
)

// npzForm is the form of an .npz: pixels, and labels behind them. Its head is known before the first picture, and the
// checksum at its end follows from that of the pixels, so that it is written once, in one go, and read by nobody.
func npzForm(set Set) form {
	begin := func(z *numpy.NPZWriter) (*numpy.Member, error) {
		return z.BeginUint8("arr_0", set.Count, set.Height, set.Width, 3)
	}
	var head bytes.Buffer // takes everything
	z := numpy.NewNPZWriter(&head)
	pixels, _ := begin(z)
	sum := pixels.CRC32()
	z.Flush()
	return form{head: head.Bytes(), sum: &sum, size: set.Bytes() / int64(set.Count),
		end: func(f *retryFile, s *partialState) error {
			z := numpy.NewNPZWriter(f)
			pixels, err := begin(z)
			if err != nil {
				return err
			}
			if err := pixels.Skip(set.Bytes(), *s.CRC32); err != nil {
				return err
			}
			if set.Labels != nil {
				labels := make([]int64, len(set.Labels))
				for i, l := range set.Labels {
					labels[i] = int64(l)
				}
				if err := z.Add(numpy.Int64Array("arr_1", labels, len(labels))); err != nil {
					return err
				}
			}
			return z.Close()
		}}
}
