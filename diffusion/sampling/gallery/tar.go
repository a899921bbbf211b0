package gallery

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/ditrun/ditrun/data/picture/sheet"
	"github.com/ditrun/ditrun/diffusion/sampling"
)

// tarForm is the form of a WebDataset archive: for each picture KEY.cls with its label, KEY.json and KEY.png. There are
// no times and no owners in it, so that the same pictures are the same bytes.
func tarForm(set Set) form {
	return form{
		encode: func(first int, p sampling.Pictures) ([]byte, error) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for i, img := range p.Images() {
				var picture bytes.Buffer
				if err := sheet.EncodePNG(&picture, img, set.Recipe.ofPicture(&set, first+i)...); err != nil {
					return nil, err
				}
				if err := writeSample(w, &set, first+i, picture.Bytes()); err != nil {
					return nil, err
				}
			}
			if err := w.Flush(); err != nil {
				return nil, err
			}
			return b.Bytes(), nil
		},
		end: func(f *retryFile, s *partialState) error {
			f.at = s.Bytes
			_, err := f.Write(make([]byte, 1024)) // two blocks of zeros end an archive
			return err
		},
	}
}

// writeSample writes picture i.
func writeSample(w *tar.Writer, set *Set, i int, picture []byte) error {
	about := struct {
		Index  int    `json:"index"`
		Label  *int   `json:"label,omitempty"`
		Class  string `json:"class,omitempty"`
		Prompt string `json:"prompt,omitempty"`
	}{Index: i}
	if set.Labels != nil {
		about.Label, about.Class = &set.Labels[i], set.className(set.Labels[i])
	}
	if set.Prompts != nil {
		about.Prompt = set.Prompts[i]
	}
	text, err := json.Marshal(about)
	if err != nil {
		return err
	}
	add := func(ending string, content []byte) error {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%06d.%s", i, ending), Size: int64(len(content)),
			Mode: 0o644, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := w.Write(content)
		return err
	}
	if set.Labels != nil {
		if err := add("cls", []byte(strconv.Itoa(set.Labels[i]))); err != nil {
			return err
		}
	}
	if err := add("json", text); err != nil {
		return err
	}
	return add("png", picture)
}
