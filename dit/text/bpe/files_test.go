package bpe

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fewFiles are merges.txt and vocab.json of the first merges of CLIP.
var fewFiles = sync.OnceValues(func() (files [2]string, err error) {
	f, err := os.Open("testdata/clip.txt.gz")
	if err != nil {
		return files, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return files, err
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return files, err
	}
	few := strings.Join(strings.Split(string(text), "\n")[:1001], "\n")
	merges, err := parseMerges(few)
	if err != nil {
		return files, err
	}
	vocab, err := json.Marshal(vocabOf(merges))
	return [2]string{few + "\n", string(vocab)}, err
})

// writeFolder makes a folder with merges.txt and vocab.json of the first merges of CLIP, and other files.
func writeFolder(t *testing.T, files map[string]string) string {
	t.Helper()
	few, err := fewFiles()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{mergesName: few[0], vocabName: few[1]}
	for name, content := range files {
		all[name] = content
	}
	dir := t.TempDir()
	for name, content := range all {
		if content == "" {
			continue // the test wants it absent
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

const strings1 = `"bos_token":"<|startoftext|>","eos_token":"<|endoftext|>","model_max_length":77`

// What tokens are special, and the padding, as CLIPTokenizerFast of transformers 4.57 has them.
func TestSettings(t *testing.T) {
	for _, c := range []struct {
		name   string
		files  map[string]string
		pad    int64
		length int
		want   []int64 // of the text below
	}{
		{"no config", nil, 1513, 0, []int64{320, 1513, 321, 748, 1512}},
		{"the strings", map[string]string{configName: `{"tokenizer_class":"CLIPTokenizer",` + strings1 + `}`}, 1513, 77,
			[]int64{320, 1513, 321, 748, 1512}},
		{"no limit", map[string]string{configName: `{"model_max_length":1000000000000000019884624838656}`}, 1513, 0,
			[]int64{320, 1513, 321, 748, 1512}},
		{"padding", map[string]string{configName: `{"pad_token":"!"}`}, 0, 0, []int64{320, 1513, 321, 0, 0, 1512}},
		{"the old file wins", map[string]string{configName: `{"pad_token":"<|endoftext|>"}`,
			specialsName: `{"pad_token":"!"}`}, 0, 0, []int64{320, 1513, 321, 0, 0, 1512}},
		{"but not over added_tokens_decoder", map[string]string{
			configName: `{"pad_token":"<|endoftext|>",` +
				`"added_tokens_decoder":{"1513":{"content":"<|endoftext|>","normalized":true}}}`,
			specialsName: `{"pad_token":"!"}`}, 1513, 0, []int64{320, 1513, 321, 748, 1512}},
		{"flags", map[string]string{
			specialsName: `{"eos_token":{"content":"<|endoftext|>","normalized":false},` +
				`"bos_token":{"content":"<|startoftext|>","normalized":false}}`},
			1513, 0, []int64{320, 27, 347, 40786, 4160, 91, 285, 321, 748, 1512}},
	} {
		dir := writeFolder(t, c.files)
		tok, err := Open(dir)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got := tok.Content("a<|ENDOFTEXT|>b!! <|startoftext|>", 75)
		if c.name == "flags" { // the few merges here split the words that are left into more ids
			if slices.Contains(got[1:len(got)-1], 1513) || got[len(got)-1] != 1512 {
				t.Errorf("%s: %v", c.name, got)
			}
			got, c.want = nil, nil
		}
		if i := slices.Index(c.want, 748); i >= 0 { // !!</w> is not among the few merges
			c.want = slices.Replace(slices.Clone(c.want), i, i+1, tok.merge(nil, "!!")...)
		}
		if tok.Pad() != c.pad || tok.MaxLength() != c.length || !slices.Equal(got, c.want) || tok.Size() != 1514 {
			t.Errorf("%s: padding %d, length %d, %v; want %d, %d, %v", c.name, tok.Pad(), tok.MaxLength(), got, c.pad,
				c.length, c.want)
		}
	}
}

// TestTwoEntriesOfOneToken: the one of the lower id counts, each time: it finds the token in small letters only.
func TestTwoEntriesOfOneToken(t *testing.T) {
	dir := writeFolder(t, map[string]string{configName: `{"added_tokens_decoder":{
		"1513":{"content":"<|endoftext|>","normalized":true},"1512":{"content":"<|endoftext|>","normalized":false}}}`})
	for range 20 {
		tok, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := tok.Content("a<|ENDOFTEXT|>b", 75); slices.Contains(got, 1513) {
			t.Fatalf("%v: the entry of the higher id counts", got)
		}
		if got := tok.Content("a<|endoftext|>b", 75); !slices.Contains(got, 1513) {
			t.Fatalf("%v: the token is not found", got)
		}
	}
}

// The forms of one tokenizer give one result; their checksums differ, and are the same each time.
func TestForms(t *testing.T) {
	dir := writeFolder(t, nil)
	folder, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	file, err := Open(filepath.Join(dir, mergesName))
	if err != nil {
		t.Fatal(err)
	}
	if folder.SHA256() != file.SHA256() || len(folder.SHA256()) != 64 {
		t.Errorf("checksums %s and %s of the same files", folder.SHA256(), file.SHA256())
	}
	var vocab map[string]int
	data, _ := os.ReadFile(filepath.Join(dir, vocabName))
	if err := json.Unmarshal(data, &vocab); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(filepath.Join(dir, mergesName))
	merges, err := parseMerges(string(text))
	if err != nil {
		t.Fatal(err)
	}
	var joined []string
	for _, m := range merges {
		joined = append(joined, m[0]+" "+m[1])
	}
	for name, list := range map[string]any{"pairs": merges, "strings": joined} {
		one := t.TempDir()
		if err := os.WriteFile(filepath.Join(one, tokenizerName), []byte(tokenizerJSON(t, vocab, list)),
			0o666); err != nil {
			t.Fatal(err)
		}
		other, err := Open(one)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, c := range readGolden(t).Strings {
			if a, b := folder.Content(c.text, 75), other.Content(c.text, 75); !slices.Equal(a, b) {
				t.Errorf("%s: %q is %v, in the folder %v", name, c.text, b, a)
			}
		}
		if other.SHA256() == folder.SHA256() {
			t.Errorf("%s: the checksum does not tell the files apart", name)
		}
	}
}

// Files that an editor saved with a byte order mark hold the same tokenizer.
func TestMarkedFiles(t *testing.T) {
	dir := writeFolder(t, nil)
	want, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{mergesName, vocabName} {
		path := filepath.Join(dir, name)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append([]byte("\ufeff"), text...), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	const text = "a golden retriever"
	if a, b := want.Content(text, 75), got.Content(text, 75); !slices.Equal(a, b) {
		t.Errorf("%v with a mark, %v without", b, a)
	}
}

func tokenizerJSON(t *testing.T, vocab map[string]int, merges any) string {
	return asJSON(t, map[string]any{
		"added_tokens": []map[string]any{{"id": 1512, "content": startToken, "normalized": true},
			{"id": 1513, "content": endToken, "normalized": true}},
		"normalizer": map[string]any{"type": "Sequence",
			"normalizers": []map[string]string{{"type": "NFC"}, {"type": "Replace"}, {"type": "Lowercase"}}},
		"model": map[string]any{"type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocab, "merges": merges},
	})
}

func TestFilesThatAreRefused(t *testing.T) {
	symbols := asJSON(t, vocabOf([][2]string{{"i", "n"}}))
	for _, c := range []struct {
		name  string
		files map[string]string
		file  string // to open, the folder itself where empty
		want  string
	}{
		{"nothing", map[string]string{mergesName: "", vocabName: ""}, "",
			"no tokenizer.json, merges.txt or bpe_simple_vocab_16e6.txt.gz in the folder"},
		{"no such folder", nil, "missing", "no such file"},
		{"no vocabulary", map[string]string{vocabName: ""}, "", "no vocab.json beside merges.txt"},
		{"no merges", map[string]string{mergesName: ""}, vocabName, "vocab.json has no merges"},
		{"empty merges", map[string]string{mergesName: "#version: 0.2\n"}, "", "no merges in it"},
		{"a line of one", map[string]string{mergesName: "#\ni n\nth\n"}, "",
			"merges.txt: line 3: want two symbols, found 1"},
		{"vocabulary of others", map[string]string{mergesName: "#\ni n\nt h\n", vocabName: symbols}, "",
			"merge 1, \"t\" and \"h\": the vocabulary lacks"},
		{"short vocabulary", map[string]string{vocabName: `{"a":0}`}, "", "the vocabulary lacks"},
		{"ids", map[string]string{vocabName: `{"a":-1}`}, "", "has the id -1"},
		{"huge ids", map[string]string{vocabName: `{"a":999999999}`}, "", "has the id 999999999"},
		{"UTF-16", map[string]string{mergesName: "\xff\xfe#\x00\n\x00"}, "", "merges.txt: text in UTF-16: want UTF-8"},
		{"no JSON", map[string]string{vocabName: `{`}, "", "vocab.json: unexpected end"},
		{"torn gzip", map[string]string{openaiName: "\x1f\x8b\x08\x00", mergesName: ""}, "",
			"bpe_simple_vocab_16e6.txt.gz: unexpected EOF"},
		{"another class", map[string]string{configName: `{"tokenizer_class":"T5Tokenizer"}`}, "",
			`tokenizer_class "T5Tokenizer": want CLIPTokenizer`},
		{"another model", map[string]string{tokenizerName: `{"model":{"type":"WordPiece"}}`}, "", `model "WordPiece"`},
		{"an added token", map[string]string{configName: `{"added_tokens_decoder":{"1514":{"content":"<cat-toy>"}}}`},
			"", `"<cat-toy>" is not in the vocabulary`},
		{"a token of whole words",
			map[string]string{configName: `{"eos_token":{"content":"<|endoftext|>","single_word":true}}`}, "",
			"single_word false"},
	} {
		dir := writeFolder(t, c.files)
		_, err := Open(filepath.Join(dir, c.file))
		if err == nil || !strings.Contains(err.Error(), c.want) ||
			!strings.HasPrefix(err.Error(), "open tokenizer "+dir) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte("#version: 0.2\ni n\nt h\n"), []byte(`{"a":1}`))
	f.Add([]byte(`{"model":{"type":"BPE","merges":["a b",["c","d"]]}}`), []byte(`{"pad_token":{"content":"!"}}`))
	f.Fuzz(func(t *testing.T, merges, config []byte) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{openaiName: merges, configName: config} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		if tok, err := Open(dir); err == nil {
			tok.Encode("a photo <|endoftext|>!", 9)
		}
	})
}
