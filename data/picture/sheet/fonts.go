package sheet

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/go-text/typesetting/font"
	"github.com/go-text/typesetting/font/opentype"
	"github.com/go-text/typesetting/fontscan"
	"github.com/go-text/typesetting/language"
)

// Fonts are what words on a sheet are written with: the Go fonts, which are compiled into the binary and have the
// letters of Latin, Greek and Cyrillic, and behind them fonts for what these lack.
type Fonts struct{ others func() []*fontFile }

// GoFonts are the Go fonts alone.
func GoFonts() *Fonts { return fontsOf(nil) }

// SystemFonts are the Go fonts and those of this machine, which are looked for when they are needed.
func SystemFonts() *Fonts { return &Fonts{systemFonts} }

func fontsOf(others []*fontFile) *Fonts { return &Fonts{func() []*fontFile { return others }} }

// A fontFile is a font that is opened when it is needed.
type fontFile struct {
	covers func(r rune) bool // by its own table
	open   func() (*font.Font, error)
}

func newFontFile(path string, index int, covers func(rune) bool) *fontFile {
	return &fontFile{covers, sync.OnceValues(func() (*font.Font, error) {
		faces, err := readFonts(path)
		if err != nil {
			return nil, err
		}
		if index >= len(faces) {
			return nil, fmt.Errorf("font %s: has %d faces", path, len(faces))
		}
		return faces[index].Font, nil
	})}
}

func readFonts(path string) ([]*font.Face, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	faces, err := font.ParseTTC(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("font %s: %w", path, err)
	}
	return faces, nil
}

// systemFonts looks for the fonts of this machine once. Where it has none, or they cannot be read, the Go fonts are
// all.
var systemFonts = sync.OnceValue(func() (files []*fontFile) {
	// The library keeps an index of what it found. Without one a search takes little time, and leaves nothing behind.
	index, err := os.MkdirTemp("", "ditrun-fonts-")
	if err != nil {
		return nil
	}
	defer os.RemoveAll(index)
	found, err := fontscan.SystemFonts(silent{}, index)
	if err != nil {
		return nil
	}
	// The same order on every start: upright fonts of common weight first, those without serifs before others.
	slices.SortStableFunc(found, func(a, b fontscan.Footprint) int {
		return cmp.Or(cmp.Compare(oddity(a), oddity(b)), cmp.Compare(a.Location.File, b.Location.File),
			cmp.Compare(a.Location.Index, b.Location.Index))
	})
	for _, p := range found {
		if !strings.Contains(p.Family, "lastresort") { // which has a box for every letter
			files = append(files, newFontFile(p.Location.File, int(p.Location.Index), p.Runes.Contains))
		}
	}
	return files
})

// oddity says how far a font is from a plain one.
func oddity(p fontscan.Footprint) (n int) {
	a := p.Aspect
	a.SetDefaults()
	if a.Style != font.StyleNormal {
		n += 8
	}
	if a.Weight < font.WeightLight || a.Weight > font.WeightMedium {
		n += 8
	}
	if a.Stretch != font.StretchNormal {
		n += 4
	}
	if strings.Contains(p.Family, "mono") {
		n += 2
	}
	if !strings.Contains(p.Family, "sans") {
		n++
	}
	return n
}

type silent struct{}

func (silent) Printf(string, ...any) {}

// shapedScripts are scripts whose letters change with their neighbours, and the tags under which a font keeps how. A
// font with the letters alone would write wrong words.
var shapedScripts = map[language.Script][]string{
	language.Arabic: {"arab"}, language.Syriac: {"syrc"}, language.Nko: {"nko "}, language.Mongolian: {"mong"},
	language.Devanagari: {"dev3", "dev2", "deva"}, language.Bengali: {"bng3", "bng2", "beng"},
	language.Gurmukhi: {"gur3", "gur2", "guru"}, language.Gujarati: {"gjr3", "gjr2", "gujr"},
	language.Oriya: {"ory3", "ory2", "orya"}, language.Tamil: {"tml3", "tml2", "taml"},
	language.Telugu: {"tel3", "tel2", "telu"}, language.Kannada: {"knd3", "knd2", "knda"},
	language.Malayalam: {"mlm3", "mlm2", "mlym"}, language.Sinhala: {"sinh"}, language.Khmer: {"khmr"},
	language.Myanmar: {"mym2", "mymr"}, language.Tibetan: {"tibt"}, language.Javanese: {"java"},
	language.Balinese: {"bali"},
}

// shapes says whether a font has what the letters of a script need.
func shapes(f *font.Font, s language.Script) bool {
	tags, shaped := shapedScripts[s]
	return !shaped || slices.ContainsFunc(f.GSUB.Scripts, func(have font.Script) bool {
		return slices.ContainsFunc(tags, func(tag string) bool { return have.Tag == opentype.MustNewTag(tag) })
	})
}
