package captions

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// addCOCO reads the captions of COCO: {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}.
func (b *captionBuilder) addCOCO(in io.Reader) error {
	limit := &recordLimit{r: in}
	r := &cocoReader{b: b, limit: limit, d: json.NewDecoder(limit), files: map[int64]string{}}
	if err := r.read(); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the file ends within the JSON text: it was cut short")
		}
		return fmt.Errorf("at byte %d: %w", r.d.InputOffset(), err)
	}
	if r.lists < 2 {
		return errors.New("want the lists images and annotations of COCO's captions")
	}
	for _, c := range r.captions {
		file, ok := r.files[c.image]
		if !ok {
			return fmt.Errorf("an annotation of picture %d, which is not in the list images", c.image)
		}
		if err := b.pairNamed(file, c.text); err != nil {
			return err
		}
	}
	return nil
}

// cocoReader reads a file of COCO element by element, as it may be of any size.
type cocoReader struct {
	b     *captionBuilder
	limit *recordLimit
	d     *json.Decoder

	lists    int              // how many of images and annotations were read
	files    map[int64]string // names of pictures by id
	captions []cocoCaption
}

type cocoCaption struct {
	image int64
	text  int32
}

// read reads the object that the file is.
func (r *cocoReader) read() error {
	if _, err := r.token(); err != nil {
		return err
	}
	for {
		r.limit.begin()
		if !r.d.More() {
			_, err := r.token()
			return err
		}
		key, err := r.token()
		if err != nil {
			return err
		}
		switch key {
		case "images":
			r.lists++
			err = r.list(r.image)
		case "annotations":
			r.lists++
			err = r.list(r.annotation)
		default:
			err = r.skip()
		}
		if err != nil {
			return err
		}
	}
}

// image reads an element of images.
func (r *cocoReader) image() error {
	var v struct {
		ID   *int64 `json:"id"`
		File string `json:"file_name"`
	}
	if err := r.decode(&v); err != nil {
		return err
	}
	if v.ID == nil || v.File == "" {
		return errors.New("a picture without id or file_name")
	}
	if old, ok := r.files[*v.ID]; ok && old != v.File {
		return fmt.Errorf("picture %d is %s and %s", *v.ID, old, v.File)
	}
	r.files[*v.ID] = v.File
	return nil
}

// annotation reads an element of annotations.
func (r *cocoReader) annotation() error {
	var v struct {
		Image   *int64  `json:"image_id"`
		Caption *string `json:"caption"`
	}
	if err := r.decode(&v); err != nil {
		return err
	}
	if v.Image == nil || v.Caption == nil {
		return errors.New("an annotation without image_id or caption: want COCO's captions_*.json, not its instances")
	}
	n, err := r.b.intern(*v.Caption)
	r.captions = append(r.captions, cocoCaption{*v.Image, n})
	return err
}

func (r *cocoReader) token() (json.Token, error) {
	r.limit.begin()
	return r.d.Token()
}

// list calls element for each element of an array, which it is to read.
func (r *cocoReader) list(element func() error) error {
	if t, err := r.token(); err != nil {
		return err
	} else if t != json.Delim('[') {
		return fmt.Errorf("%v: want a list", t)
	}
	for r.d.More() {
		r.limit.begin()
		if err := element(); err != nil {
			return err
		}
	}
	_, err := r.token()
	return err
}

func (r *cocoReader) decode(v any) error {
	var raw json.RawMessage
	if err := r.d.Decode(&raw); err != nil {
		return err
	}
	r.b.countInvalid(raw)
	return json.Unmarshal(raw, v)
}

// skip reads over a value of any size.
func (r *cocoReader) skip() error {
	for depth := 0; ; {
		t, err := r.token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}
