package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// What [MarshalSealed] puts at the end of an object, around the sum.
const (
	sealField  = "sha256"
	sealBefore = ",\n  \"" + sealField + "\": \""
	sealAfter  = "\"\n}\n"
)

// MarshalSealed is json.MarshalIndent of a struct, with one field more at the end: "sha256", the sum of the text before
// it, by which [CheckSeal] finds what was changed afterwards.
func MarshalSealed(v any) ([]byte, error) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	body, ok := bytes.CutSuffix(text, []byte("\n}"))
	if !ok {
		return nil, fmt.Errorf("%T has no fields to seal", v)
	}
	sum := sha256.Sum256(body)
	return append(body, sealBefore+hex.EncodeToString(sum[:])+sealAfter...), nil
}

// CheckSeal returns an error if text, a JSON object, is not what [MarshalSealed] wrote. Text without a sum passes.
func CheckSeal(text []byte) error {
	const digits = 2 * sha256.Size
	at := len(text) - len(sealAfter) - digits - len(sealBefore)
	if at >= 0 {
		body, end := text[:at], string(text[at:])
		sum := end[len(sealBefore):][:digits]
		if strings.HasPrefix(end, sealBefore) && strings.HasSuffix(end, sealAfter) {
			have := sha256.Sum256(body)
			if hex.EncodeToString(have[:]) != sum {
				return fmt.Errorf("sha256 %x..., %.12s... when it was written: damaged, or changed by hand: who did "+
					"so on purpose removes its last field, %q", have[:6], sum, sealField)
			}
			return nil
		}
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return err
	}
	for name := range fields {
		if strings.EqualFold(name, sealField) {
			return errors.New("its last field, \"" + sealField + "\", is not as it was written: damaged, or changed " +
				"by hand: who did so on purpose removes that field")
		}
	}
	return nil
}
