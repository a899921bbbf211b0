package sheet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/png"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/ditrun/ditrun/internal/disk"
)

// A Text is what a PNG file says of itself under a keyword. Those of the PNG specification, such as Software and
// Description, and "parameters", under which programs for sampling keep what they drew with, are shown by many
// programs.
type Text struct{ Keyword, Text string }

const (
	pngSignature = "\x89PNG\r\n\x1a\n"
	headEnd      = 8 + 25 // of the signature and the chunk IHDR, behind which texts stand
)

// WritePNG writes img to path, with texts, aside first and then renamed. The same image and texts make the same bytes.
func WritePNG(path string, img image.Image, texts ...Text) error {
	return disk.WriteFile(path, func(w io.Writer) error { return EncodePNG(w, img, texts...) })
}

// EncodePNG writes what [WritePNG] writes.
func EncodePNG(w io.Writer, img image.Image, texts ...Text) error {
	if len(texts) == 0 {
		return png.Encode(w, img)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return err
	}
	head, pixels := b.Bytes()[:headEnd], b.Bytes()[headEnd:]
	for _, t := range texts {
		chunk, err := t.chunk()
		if err != nil {
			return err
		}
		head = slices.Concat(head, chunk)
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	_, err := w.Write(pixels)
	return err
}

// IsWhole says whether the file at path begins and ends as a PNG file does, so that it was not cut short.
func IsWhole(path string) bool {
	const end = "\x00\x00\x00\x00IEND\xaeB`\x82"
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() < int64(len(pngSignature)+len(end)) {
		return false
	}
	var first [len(pngSignature)]byte
	var last [len(end)]byte
	_, err1 := f.ReadAt(first[:], 0)
	_, err2 := f.ReadAt(last[:], st.Size()-int64(len(last)))
	return err1 == nil && err2 == nil && string(first[:]) == pngSignature && string(last[:]) == end
}

// chunk is the text as a tEXt chunk, or as an iTXt chunk where it is more than ASCII.
func (t Text) chunk() ([]byte, error) {
	if k := t.Keyword; len(k) < 1 || len(k) > 79 || strings.TrimSpace(k) != k || !isASCII(k) ||
		strings.Contains(k, "\n") {
		return nil, fmt.Errorf("keyword %q: want 1 to 79 ASCII characters", k)
	}
	text := strings.ToValidUTF8(t.Text, "\ufffd")
	body := []byte("tEXt" + t.Keyword + "\x00")
	if !isASCII(text) {
		body = []byte("iTXt" + t.Keyword + "\x00\x00\x00\x00\x00") // not compressed, of no language
		text = strings.ReplaceAll(text, "\x00", "\ufffd")
	}
	body = append(body, text...)
	chunk := binary.BigEndian.AppendUint32(nil, uint32(len(body)-4))
	chunk = append(chunk, body...)
	return binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE(body)), nil
}

// isASCII says whether s has only ASCII characters that show, and line ends.
func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') })
}

// ErrNoPNG is the error of [ReadTexts] for a file that is no PNG.
var ErrNoPNG = errors.New("not a PNG file")

// maxText bounds one text that is read, maxTexts all of a file, where each counts textCost bytes more.
const maxText, maxTexts, textCost = 1 << 20, 4 << 20, 64

// ReadTexts reads the size and the texts of a PNG file; those that are compressed, those behind the pixels, those of
// more than a mebibyte, and those behind 4 MiB of texts, are passed over.
func ReadTexts(r io.Reader) (size image.Point, texts []Text, err error) {
	head := make([]byte, headEnd)
	if _, err := io.ReadFull(r, head); err != nil || string(head[:8]) != pngSignature ||
		string(head[12:16]) != "IHDR" {
		return size, nil, ErrNoPNG
	}
	size = image.Pt(int(binary.BigEndian.Uint32(head[16:])), int(binary.BigEndian.Uint32(head[20:])))
	for room := int64(maxTexts); ; {
		var start [8]byte
		if _, err := io.ReadFull(r, start[:]); err != nil {
			return size, texts, fmt.Errorf("PNG: cut short: %w", err)
		}
		n, kind := int64(binary.BigEndian.Uint32(start[:])), string(start[4:])
		if kind == "IDAT" || kind == "IEND" {
			return size, texts, nil
		}
		if kind != "tEXt" && kind != "iTXt" || n > min(maxText, room-textCost) {
			if _, err := io.CopyN(io.Discard, r, n+4); err != nil {
				return size, texts, fmt.Errorf("PNG: cut short: %w", err)
			}
			continue
		}
		room -= n + textCost
		body := make([]byte, n+4)
		if _, err := io.ReadFull(r, body); err != nil {
			return size, texts, fmt.Errorf("PNG: cut short: %w", err)
		}
		if sum := crc32.Update(crc32.ChecksumIEEE(start[4:]), crc32.IEEETable, body[:n]); sum !=
			binary.BigEndian.Uint32(body[n:]) {
			return size, texts, errors.New("PNG: a text has another checksum: damaged")
		}
		if t, ok := parseText(kind, body[:n]); ok {
			texts = append(texts, t)
		}
	}
}

func parseText(kind string, body []byte) (t Text, ok bool) {
	keyword, rest, ok := bytes.Cut(body, []byte{0})
	t.Keyword = latin1(keyword)
	if kind == "tEXt" || !ok {
		t.Text = latin1(rest)
		return t, ok
	}
	if len(rest) < 2 || rest[0] != 0 {
		return t, false
	}
	_, rest, ok = bytes.Cut(rest[2:], []byte{0}) // the language
	if ok {
		_, rest, ok = bytes.Cut(rest, []byte{0}) // the keyword in it
	}
	t.Text = strings.ToValidUTF8(string(rest), string(unicode.ReplacementChar))
	return t, ok
}

// latin1 is text whose characters are bytes.
func latin1(b []byte) string {
	runes := make([]rune, len(b))
	for i, c := range b {
		runes[i] = rune(c)
	}
	return string(runes)
}
