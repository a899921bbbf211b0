package disk

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

type sealedThing struct {
	Name   string         `json:"name"`
	Number int            `json:"number"`
	List   []string       `json:"list"`
	More   map[string]int `json:"more"`
}

// Every flipped bit is found, or leaves what is read as it was.
func TestSealFindsEveryFlippedBit(t *testing.T) {
	was := sealedThing{"a \"name\"", 20, []string{"x", "y"}, map[string]int{"z": 1}}
	text, err := MarshalSealed(was)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckSeal(text); err != nil {
		t.Fatal(err)
	}
	var back sealedThing
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	want, _ := json.Marshal(was)
	if have, _ := json.Marshal(back); !bytes.Equal(have, want) {
		t.Errorf("read back %s", have)
	}
	unnoticed := 0
	for bit := range 8 * len(text) {
		damaged := bytes.Clone(text)
		damaged[bit/8] ^= 1 << (bit % 8)
		if err := CheckSeal(damaged); err != nil {
			continue
		}
		unnoticed++
		var v sealedThing
		if err := json.Unmarshal(damaged, &v); err != nil {
			continue
		}
		if have, _ := json.Marshal(v); !bytes.Equal(have, want) {
			t.Errorf("bit %d gives %s without an error", bit, have)
		}
	}
	if unnoticed > 8*len(sealField) {
		t.Errorf("%d flipped bits pass, want those alone that rename the field of the sum", unnoticed)
	}
}

func TestSealOfOtherText(t *testing.T) {
	for _, text := range []string{`{}`, `{"name":"x"}`, "{\n  \"name\": \"x\"\n}\n"} {
		if err := CheckSeal([]byte(text)); err != nil {
			t.Errorf("%s: %v, want text without a sum to pass", text, err)
		}
	}
	sealed, err := MarshalSealed(sealedThing{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"changed":   strings.Replace(string(sealed), `"x"`, `"y"`, 1),
		"re-spaced": strings.ReplaceAll(string(sealed), "\n  ", "\n"),
		"no end":    strings.TrimSuffix(string(sealed), "\n"),
	} {
		if err := CheckSeal([]byte(text)); err == nil || !strings.Contains(err.Error(), `removes`) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	if _, err := MarshalSealed(3); err == nil {
		t.Error("a number was sealed")
	}
}
