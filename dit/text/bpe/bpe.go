// Package bpe is the byte-pair tokenizer of CLIP's text encoder, in plain Go. Its ids are those of
// transformers' CLIPTokenizerFast: Unicode form NFC, white space collapsed, lower case by character,
// and no other repair of the text.
//
//	t, err := bpe.Open("stable-diffusion-v1-5/tokenizer")
//	ids, n := t.Encode("a photo of a cat", 77) // start, five words, end, padding; n is 7
package bpe

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// A Tokenizer turns text into ids. Its methods may be called from several goroutines at once.
type Tokenizer struct {
	merges   map[pair]merge
	inner    [256]int32 // symbol of a byte inside a word
	last     [256]int32 // symbol of the byte that ends a word
	specials []special  // tokens that are found in the text as they are

	start, end, pad int64
	size            int // ids are below it
	maxLength       int // of tokenizer_config.json, 0 for none
	sum             string
}

type pair struct{ left, right int32 }

// A merge is what two neighbouring symbols become; those of the lowest rank go first.
type merge struct{ rank, id int32 }

// A special token is one id wherever it occurs. Folded ones are found in the normalised text, so in upper
// or lower case, others in the text as it is.
type special struct {
	text   string
	id     int64
	folded bool
}

// Size is one more than the highest id.
func (t *Tokenizer) Size() int { return t.size }

// MaxLength is the length that the files give for encoded text, 0 where they do not.
func (t *Tokenizer) MaxLength() int { return t.maxLength }

// Pad returns the id that fills up short texts.
func (t *Tokenizer) Pad() int64 { return t.pad }

// SHA256 returns a hex checksum of the files that the tokenizer was read from.
func (t *Tokenizer) SHA256() string { return t.sum }

// Encode returns text as length ids, at least two: the start, up to length - 2 of content, the end and
// padding; n counts the ids before the padding. Content beyond that is left out. Bytes that are not
// UTF-8 count as U+FFFD, each of them.
func (t *Tokenizer) Encode(text string, length int) (ids []int64, n int) {
	ids = append(make([]int64, 0, length), t.start)
	ids = append(append(ids, t.Content(text, length-2)...), t.end)
	n = len(ids)
	for len(ids) < length {
		ids = append(ids, t.pad)
	}
	return ids, n
}

// maxWord limits the bytes between white space that are looked at. So many hold more ids than any
// encoder takes: one id stands for at most some tens of bytes. What lies beyond could change the first
// ids only through a chain of thousands of merges of ever higher ranks, each blocking the one on its left.
const maxWord = 64 << 10

// Content returns the first ids of text, at most so many, without start and end.
func (t *Tokenizer) Content(text string, most int) []int64 {
	var ids []int64
	for len(ids) < most {
		text = strings.TrimLeftFunc(text, isSpace)
		if text == "" {
			return ids
		}
		word := text
		if i := strings.IndexFunc(text, isSpace); i >= 0 {
			word = text[:i]
		}
		text = text[len(word):]
		if len(word) > maxWord {
			cut := maxWord
			for cut > maxWord-utf8.UTFMax && !utf8.RuneStart(word[cut]) {
				cut--
			}
			word = word[:cut]
		}
		if !utf8.ValidString(word) {
			word = string([]rune(word))
		}
		ids = t.word(ids, word)
	}
	return ids[:max(most, 0)]
}

// word appends the ids of a text without white space.
func (t *Tokenizer) word(ids []int64, word string) []int64 {
	t.split(word, false, func(text string, id int64) {
		if text == "" {
			ids = append(ids, id)
			return
		}
		t.split(normalize(text), true, func(text string, id int64) {
			if text == "" {
				ids = append(ids, id)
				return
			}
			for text != "" {
				n := piece(text)
				ids = t.merge(ids, text[:n])
				text = text[n:]
			}
		})
	})
	return ids
}

// split yields the parts of text between special tokens of one kind and, between them, the tokens' ids,
// without a text. The leftmost token goes first, and of several that begin there the longest.
func (t *Tokenizer) split(text string, folded bool, yield func(text string, id int64)) {
	begin := 0
	for i := 0; i < len(text); {
		var found special
		for _, s := range t.specials {
			if s.folded == folded && len(s.text) > len(found.text) && strings.HasPrefix(text[i:], s.text) {
				found = s
			}
		}
		if found.text == "" {
			i++
			continue
		}
		if begin < i {
			yield(text[begin:i], 0)
		}
		yield("", found.id)
		i += len(found.text)
		begin = i
	}
	if begin < len(text) {
		yield(text[begin:], 0)
	}
}

// contractions of English are pieces of their own.
var contractions = []string{"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}

// piece returns the length of what text, without white space, begins with: a contraction, a run of letters,
// one digit, or a run of other characters.
func piece(text string) int {
	for _, c := range contractions {
		if strings.HasPrefix(text, c) {
			return len(c)
		}
	}
	r, size := utf8.DecodeRuneInString(text)
	class := classOf(r)
	if class == number {
		return size
	}
	if n := strings.IndexFunc(text, func(r rune) bool { return classOf(r) != class }); n >= 0 {
		return n
	}
	return len(text)
}

// A node is a symbol of a piece being merged, in a list of neighbours; -1 ends the list.
type node struct{ id, previous, next int32 }

// A candidate is a pair of neighbours that may be merged; at is the left one.
type candidate struct {
	merge
	at int32
}

func (c candidate) before(d candidate) bool {
	return c.rank < d.rank || c.rank == d.rank && c.at < d.at
}

// merge appends the ids of one piece: of the neighbours that may be merged those of the lowest rank are, the
// leftmost first, until there are none. A heap of candidates makes that n log n.
func (t *Tokenizer) merge(ids []int64, text string) []int64 {
	nodes := make([]node, len(text))
	for i := range nodes {
		nodes[i] = node{t.inner[text[i]], int32(i) - 1, int32(i) + 1}
	}
	end := len(nodes) - 1
	nodes[end].id, nodes[end].next = t.last[text[end]], -1

	var heap []candidate
	consider := func(at int32) {
		if at < 0 || nodes[at].next < 0 {
			return
		}
		if m, ok := t.merges[pair{nodes[at].id, nodes[nodes[at].next].id}]; ok {
			heap = push(heap, candidate{m, at})
		}
	}
	for i := range nodes {
		consider(int32(i))
	}
	for len(heap) > 0 {
		var c candidate
		c, heap = pop(heap)
		left := &nodes[c.at]
		if left.id < 0 || left.next < 0 {
			continue // merged into its left neighbour, or without a right one, since
		}
		right := &nodes[left.next]
		if m, ok := t.merges[pair{left.id, right.id}]; !ok || m.id != c.id {
			continue // one of the two is another symbol since
		}
		left.id, left.next, right.id = c.id, right.next, -1
		if left.next >= 0 {
			nodes[left.next].previous = c.at
		}
		consider(left.previous)
		consider(c.at)
	}
	for i := int32(0); i >= 0; i = nodes[i].next {
		ids = append(ids, int64(nodes[i].id))
	}
	return ids
}

func push(heap []candidate, c candidate) []candidate {
	heap = append(heap, c)
	for i := len(heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if !heap[i].before(heap[parent]) {
			break
		}
		heap[i], heap[parent] = heap[parent], heap[i]
		i = parent
	}
	return heap
}

func pop(heap []candidate) (candidate, []candidate) {
	top, end := heap[0], len(heap)-1
	heap[0] = heap[end]
	heap = heap[:end]
	for i := 0; ; {
		least := i
		for _, child := range []int{2*i + 1, 2*i + 2} {
			if child < end && heap[child].before(heap[least]) {
				least = child
			}
		}
		if least == i {
			return top, heap
		}
		heap[i], heap[least] = heap[least], heap[i]
		i = least
	}
}

// byteSymbols returns the character that stands for each byte in merges and vocabularies, and the bytes in
// the order of their ids: printable ones are their own Latin-1 characters, others follow from U+0100 on.
func byteSymbols() (symbols [256]rune, order []byte) {
	printable := func(b int) bool { return b >= '!' && b <= '~' || b >= 0xa1 && b != 0xad }
	for b := range 256 {
		if printable(b) {
			symbols[b] = rune(b)
			order = append(order, byte(b))
		}
	}
	for b := range 256 {
		if !printable(b) {
			symbols[b] = 0x100 + rune(len(order)) - 188
			order = append(order, byte(b))
		}
	}
	return symbols, slices.Clip(order)
}
