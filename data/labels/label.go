package labels

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A Label says of which class a picture is: by a number, or by a name where there is one.
type Label struct {
	Number int32
	Class  string
}

// String is the text that [Parse] reads.
func (l Label) String() string {
	if l.Class != "" {
		return l.Class
	}
	return strconv.Itoa(int(l.Number))
}

// MaxNumber bounds the number of classes that a file may ask for.
const MaxNumber = 1 << 20

// maxClassName bounds the name of a class, in bytes.
const maxClassName = 1000

// Number is the label of a whole number.
func Number(v int64) (Label, error) {
	switch {
	case v == -1:
		return Label{}, fmt.Errorf("label -1: want a number from 0 to %d: -1 stands for no label, as in test sets",
			MaxNumber)
	case v < 0 || v > MaxNumber:
		return Label{}, fmt.Errorf("label %d: want a number from 0 to %d", v, MaxNumber)
	}
	return Label{Number: int32(v)}, nil
}

// Parse takes a whole number, or else a name that is none.
func Parse(text string) (Label, error) {
	text = strings.TrimSpace(text)
	v, err := strconv.ParseInt(text, 10, 64)
	if err == nil {
		return Number(v)
	}
	if _, ferr := strconv.ParseFloat(text, 64); ferr == nil || errors.Is(ferr, strconv.ErrRange) || text == "" {
		return Label{}, fmt.Errorf("label %.40q: want a number from 0 to %d or a class name", text, MaxNumber)
	}
	if len(text) > maxClassName || strings.ContainsAny(text, "\r\n\x00") {
		return Label{}, fmt.Errorf("label %.40q...: want a class name of one line and at most %d bytes",
			text, maxClassName)
	}
	return Label{Class: text}, nil
}

// A NoLabelError is that of a field that holds something else than a label, such as a list of objects.
type NoLabelError struct{ Text string }

func (e *NoLabelError) Error() string {
	return fmt.Sprintf("label %.40s: want a number from 0 to %d or a class name", e.Text, MaxNumber)
}

// FromJSON finds the label in the fields of a JSON object: a number in one of the usual fields, else a name.
func FromJSON(text []byte) (l Label, found bool, err error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return l, false, &NoLabelError{"that is no JSON object"}
	}
	for _, key := range []string{"label", "cls", "class_id"} {
		var v *float64
		if json.Unmarshal(fields[key], &v) == nil && v != nil {
			if *v == math.Trunc(*v) && math.Abs(*v) < 1<<53 {
				l, err = Number(int64(*v))
			} else {
				l, err = Parse(strconv.FormatFloat(*v, 'f', -1, 64))
			}
			return l, err == nil, err
		}
	}
	for _, key := range []string{"label", "cls", "class_name", "class_id"} {
		raw, ok := fields[key]
		if !ok || string(raw) == "null" {
			continue
		}
		var name string
		if json.Unmarshal(raw, &name) != nil {
			err = &NoLabelError{string(raw)}
			continue
		}
		l, err := Parse(name)
		return l, err == nil, err
	}
	return l, false, err
}
