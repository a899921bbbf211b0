package bpe

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/ditrun/ditrun/internal/disk"
)

// Names of the files that [Open] looks for in a folder, of those that hold merges the one to take first.
const (
	tokenizerName = "tokenizer.json"
	mergesName    = "merges.txt"
	vocabName     = "vocab.json"
	openaiName    = "bpe_simple_vocab_16e6.txt.gz"
	configName    = "tokenizer_config.json"
	specialsName  = "special_tokens_map.json"
)

// Limits that no real tokenizer comes near.
const (
	maxFile = 64 << 20
	maxID   = 1 << 20
)

// numMerges is how many lines of a list of merges are used; OpenAI's file has five times as many.
const numMerges = 49152 - 256 - 2

// Open reads a tokenizer: a folder as transformers has them, with tokenizer.json or with merges.txt and
// vocab.json, or one of these files in it; or bpe_simple_vocab_16e6.txt.gz of OpenAI and open_clip, alone or in a
// folder. Special tokens, the padding and the length are taken from tokenizer_config.json and
// special_tokens_map.json where they are there, and else are those of Stable Diffusion 1.
func Open(path string) (*Tokenizer, error) {
	t, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("open tokenizer %s: %w", path, err)
	}
	return t, nil
}

func open(path string) (*Tokenizer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, disk.Bare(err)
	}
	dir, names := filepath.Dir(path), []string{filepath.Base(path)}
	if info.IsDir() {
		dir, names = path, []string{tokenizerName, mergesName, openaiName}
	}
	r := reader{dir: dir, sum: sha256.New()}
	for _, name := range names {
		data, err := r.read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if name == vocabName {
			return nil, fmt.Errorf("%s has no merges: give the folder, with %s in it", vocabName, mergesName)
		}
		t := &Tokenizer{}
		if err := t.load(&r, name, data); err != nil {
			return nil, err
		}
		t.sum = hex.EncodeToString(r.sum.Sum(nil))
		return t, nil
	}
	return nil, fmt.Errorf("no %s, %s or %s in the folder: want CLIP's tokenizer", tokenizerName, mergesName,
		openaiName)
}

// A reader reads files of one folder and sums up what it read.
type reader struct {
	dir string
	sum hash.Hash
}

func (r *reader) read(name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(r.dir, name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, disk.Bare(err))
	}
	defer f.Close()
	data, err := readAll(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, disk.Bare(err))
	}
	one := sha256.Sum256(data)
	fmt.Fprintf(r.sum, "%s %x\n", name, one)
	if data, err = disk.PlainText(data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

func readAll(from io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(from, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("more than %d bytes", maxFile)
	}
	return data, err
}

// readJSON reads a file that need not be there into v.
func (r *reader) readJSON(name string, v any) error {
	data, err := r.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// A token is an entry of a config: its text alone, or an object.
type token struct {
	Content    string `json:"content"`
	Normalized *bool  `json:"normalized"`
	SingleWord bool   `json:"single_word"`
	ID         *int   `json:"id"` // in tokenizer.json
}

func (t *token) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, &t.Content)
	}
	type plain token
	return json.Unmarshal(data, (*plain)(t))
}

// settings are what this package reads of tokenizer_config.json.
type settings struct {
	Class     string           `json:"tokenizer_class"`
	MaxLength float64          `json:"model_max_length"`
	BOS       *token           `json:"bos_token"`
	EOS       *token           `json:"eos_token"`
	Pad       *token           `json:"pad_token"`
	Added     map[string]token `json:"added_tokens_decoder"`
}

// load makes a tokenizer of a file with merges and of those beside it.
func (t *Tokenizer) load(r *reader, name string, data []byte) error {
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err == nil {
			data, err = readAll(z)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	var vocab map[string]int
	var merges [][2]string
	var added []token
	var err error
	switch {
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")):
		vocab, merges, added, err = parseTokenizer(data)
	default:
		if merges, err = parseMerges(string(data)); err != nil {
			break
		}
		if name != mergesName {
			vocab = vocabOf(merges)
			break
		}
		if err := r.readJSON(vocabName, &vocab); err != nil {
			return err
		}
		if vocab == nil {
			return fmt.Errorf("no %s beside %s", vocabName, mergesName)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := t.index(vocab, merges); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var cfg settings
	if err := r.readJSON(configName, &cfg); err != nil {
		return err
	}
	if cfg.Added == nil { // files of transformers before 4.34: the other one has the last word
		if err := r.readJSON(specialsName, &cfg); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(cfg.Added)) { // where a token has two entries the first counts
		added = append(added, cfg.Added[id])
	}
	return t.configure(vocab, cfg, added)
}

// parseMerges reads a header and one pair a line.
func parseMerges(text string) ([][2]string, error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")[1:]
	var merges [][2]string
	for i, line := range lines[:min(len(lines), numMerges)] {
		parts := strings.Fields(line)
		if len(parts) != 2 {
			return nil, fmt.Errorf("line %d: want two symbols, found %d", i+2, len(parts))
		}
		merges = append(merges, [2]string(parts))
	}
	if len(merges) == 0 {
		return nil, errors.New("no merges in it: want a header and one pair of symbols a line")
	}
	return merges, nil
}

const (
	wordEnd    = "</w>"
	startToken = "<|startoftext|>"
	endToken   = "<|endoftext|>"
)

// vocabOf numbers symbols as OpenAI does: bytes, bytes that end a word, merges, start and end.
func vocabOf(merges [][2]string) map[string]int {
	symbols, order := byteSymbols()
	vocab := map[string]int{}
	for i, b := range order {
		vocab[string(symbols[b])] = i
		vocab[string(symbols[b])+wordEnd] = 256 + i
	}
	for i, m := range merges {
		vocab[m[0]+m[1]] = 512 + i
	}
	vocab[startToken] = 512 + len(merges)
	vocab[endToken] = 513 + len(merges)
	return vocab
}

// parseTokenizer reads a tokenizer.json of CLIP.
func parseTokenizer(data []byte) (vocab map[string]int, merges [][2]string, added []token, err error) {
	var file struct {
		Added      []token `json:"added_tokens"`
		Normalizer struct {
			Steps []struct {
				Type string `json:"type"`
			} `json:"normalizers"`
		} `json:"normalizer"`
		Model struct {
			Type   string            `json:"type"`
			Suffix string            `json:"end_of_word_suffix"`
			Vocab  map[string]int    `json:"vocab"`
			Merges []json.RawMessage `json:"merges"`
		} `json:"model"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, nil, nil, err
	}
	var steps []string
	for _, s := range file.Normalizer.Steps {
		steps = append(steps, s.Type)
	}
	if got := fmt.Sprint(file.Model.Type, file.Model.Suffix, steps); got != "BPE"+wordEnd+"[NFC Replace Lowercase]" {
		return nil, nil, nil, fmt.Errorf("model %q, end of word %q, normalizers %v: want BPE, %q, [NFC Replace "+
			"Lowercase], which is CLIP's tokenizer",
			file.Model.Type, file.Model.Suffix, steps, wordEnd)
	}
	for i, raw := range file.Model.Merges {
		var line string
		var parts []string
		if json.Unmarshal(raw, &line) == nil { // of tokenizers before 0.20
			parts = strings.Split(line, " ")
		} else if err := json.Unmarshal(raw, &parts); err != nil {
			return nil, nil, nil, fmt.Errorf("merge %d: %w", i, err)
		}
		if len(parts) != 2 {
			return nil, nil, nil, fmt.Errorf("merge %d: want two symbols, found %d", i, len(parts))
		}
		merges = append(merges, [2]string(parts))
	}
	return file.Model.Vocab, merges, file.Added, nil
}

// index fills the tables of merges and bytes.
func (t *Tokenizer) index(vocab map[string]int, merges [][2]string) error {
	for _, symbol := range slices.Sorted(maps.Keys(vocab)) {
		id := vocab[symbol]
		if id < 0 || id >= maxID {
			return fmt.Errorf("symbol %.40q has the id %d: want 0 to %d", symbol, id, maxID-1)
		}
		t.size = max(t.size, id+1)
	}
	symbols, _ := byteSymbols()
	for b, symbol := range symbols {
		inner, ok := vocab[string(symbol)]
		last, ok2 := vocab[string(symbol)+wordEnd]
		if !ok || !ok2 {
			return fmt.Errorf("the vocabulary lacks %q or %q, which stand for byte %d", string(symbol),
				string(symbol)+wordEnd, b)
		}
		t.inner[b], t.last[b] = int32(inner), int32(last)
	}
	t.merges = make(map[pair]merge, len(merges))
	for rank, m := range merges {
		left, ok := vocab[m[0]]
		right, ok2 := vocab[m[1]]
		id, ok3 := vocab[m[0]+m[1]]
		if !ok || !ok2 || !ok3 {
			return fmt.Errorf("merge %d, %.40q and %.40q: the vocabulary lacks one of them or the result", rank, m[0],
				m[1])
		}
		t.merges[pair{int32(left), int32(right)}] = merge{int32(rank), int32(id)}
	}
	return nil
}

// configure sets the special tokens.
func (t *Tokenizer) configure(vocab map[string]int, cfg settings, added []token) error {
	if cfg.Class != "" && cfg.Class != "CLIPTokenizer" && cfg.Class != "CLIPTokenizerFast" {
		return fmt.Errorf("%s: tokenizer_class %q: want CLIPTokenizer", configName, cfg.Class)
	}
	if cfg.MaxLength >= 1 && cfg.MaxLength <= maxID { // files without a limit have 1e30
		t.maxLength = int(cfg.MaxLength)
	}
	for _, a := range added {
		if err := t.add(vocab, a, false); err != nil {
			return err
		}
	}
	var err error
	// What no file gives is as in transformers.
	set := func(id *int64, tok *token, standard string, folded bool) {
		if tok == nil {
			tok = &token{Content: standard}
		}
		if e := t.add(vocab, *tok, folded); e != nil && err == nil {
			err = e
		}
		*id = int64(vocab[tok.Content])
	}
	set(&t.start, cfg.BOS, startToken, true)
	set(&t.end, cfg.EOS, endToken, true)
	set(&t.pad, cfg.Pad, endToken, false)
	return err
}

// add makes a token special, unless it is already. folded is for tokens whose entry does not say it.
func (t *Tokenizer) add(vocab map[string]int, a token, folded bool) error {
	id, ok := vocab[a.Content]
	if !ok {
		if a.ID == nil {
			return fmt.Errorf("special token %.40q is not in the vocabulary", a.Content)
		}
		return fmt.Errorf("special token %.40q, id %d, is not in the vocabulary: tokens that were added to CLIP's "+
			"are not supported", a.Content, *a.ID)
	}
	if a.Content == "" || a.SingleWord || strings.ContainsFunc(a.Content, unicode.IsSpace) {
		return fmt.Errorf("special token %.40q: want one without white space, single_word false", a.Content)
	}
	for _, s := range t.specials {
		if s.id == int64(id) {
			return nil
		}
	}
	if a.Normalized != nil {
		folded = *a.Normalized
	}
	s := special{a.Content, int64(id), folded}
	if folded {
		s.text = normalize(s.text)
	}
	t.specials = append(t.specials, s)
	return nil
}
