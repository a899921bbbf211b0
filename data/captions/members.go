package captions

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/internal/disk"
)

// addMembers takes captions from the archives and tables of the source itself: of a sample its members of text or,
// where it has none, its members .json; of a table one column.
func (b *captionBuilder) addMembers(ctx context.Context, src catalog.Source, field string) error {
	members, ok := src.(catalog.MemberSource)
	if !ok {
		return catalog.ErrNoMembers
	}
	names := captionColumns
	isText := func(kind string) bool { return kind == "txt" || kind == "text" || kind == "caption" }
	if field != "" {
		names = []string{field}
		isText = func(kind string) bool { return kind == field }
	}
	want := catalog.WantedMembers{Kind: func(kind string) bool { return isText(kind) || kind == "json" },
		MaxBytes: maxCaptionRecord, Columns: names}
	texts, fromJSON := map[int][]string{}, map[int][]string{} // by sample
	err := members.Members(ctx, want, func(m catalog.Member) error {
		switch {
		case m.Kind == "": // of a table
			return b.add(m.Samples[0], string(m.Content))
		case isText(m.Kind):
			for _, i := range m.Samples {
				texts[i] = append(texts[i], string(m.Content))
			}
			return nil
		}
		b.countInvalid(m.Content)
		list, err := captionsInJSON(m.Content, names)
		for _, i := range m.Samples {
			fromJSON[i] = append(fromJSON[i], list...)
		}
		return err
	})
	if err != nil {
		return err
	}
	for i := range b.samples.Len() {
		list := texts[i]
		if len(list) == 0 {
			list = fromJSON[i]
		}
		for _, text := range list {
			if err := b.add(i, text); err != nil {
				return err
			}
		}
	}
	if b.stats.Read == 0 {
		want := "members .txt, or .json with a field caption or text"
		if field != "" {
			want = fmt.Sprintf("members .%s, or .json with a field %q", field, field)
		}
		return fmt.Errorf("no captions beside the pictures: want %s", want)
	}
	return nil
}

// captionsInJSON returns what a member .json has in the first of the fields that is there, none where it is no object.
func captionsInJSON(text []byte, names []string) ([]string, error) {
	text, err := disk.PlainText(text)
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(text, &fields) != nil {
		return nil, nil // not for us
	}
	n, ok := firstField(fields, names)
	if !ok || string(fields[n]) == "null" {
		return nil, nil
	}
	list, err := captionsOf(fields[n])
	if err != nil {
		return nil, fmt.Errorf("field %q: %w", n, err)
	}
	return list, nil
}
