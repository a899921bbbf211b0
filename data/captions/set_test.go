package captions

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/internal/datatest"
)

// named are samples by class and name.
type named struct {
	classes []string
	samples []catalog.Sample
}

func (n named) Len() int                    { return len(n.samples) }
func (n named) Classes() []string           { return n.classes }
func (n named) Sample(i int) catalog.Sample { return n.samples[i] }

func sample(name string, label int) catalog.Sample { return catalog.Sample{Name: name, Label: label} }

// pets has the same name in two classes, and two pictures of one stem.
var pets = named{[]string{"cat", "dog"}, []catalog.Sample{sample("1.jpg", 0), sample("2.jpg", 0), sample("2.png", 0),
	sample("sub/3.jpg", 0), sample("1.jpg", 1), sample("only.webp", 1)}}

// captionsFrom reads a file of captions for pets.
func captionsFrom(text string) (*Set, error) {
	b := newCaptionBuilder(pets)
	if err := b.addText(context.Background(), strings.NewReader(text)); err != nil {
		return nil, err
	}
	return b.finish()
}

// byName lists the captions as sample=text;text.
func byName(c *Set, samples labelled) []string {
	var list []string
	for i := range samples.Len() {
		var texts []string
		for _, t := range c.Of(i) {
			texts = append(texts, c.Texts[t])
		}
		if s := samples.Sample(i); len(texts) > 0 {
			list = append(list, samples.Classes()[s.Label]+"/"+s.Name+"="+strings.Join(texts, ";"))
		}
	}
	return list
}

func TestCaptionFiles(t *testing.T) {
	want := []string{"cat/1.jpg=a cat, \"sitting\"", "cat/sub/3.jpg=three;zwei", "dog/only.webp=日本 dog"}
	for name, text := range map[string]string{
		"CSV": "cat/1.jpg,\"a cat, " +
			"\"\"sitting\"\"\"\ncat/sub/3.jpg,zwei\ntrain/cat/sub/3.jpg,three\nonly.webp, 日本 dog \n",
		"CSV with header": "\uFEFFid,caption,file_name\r\n7,\"a cat, " +
			"\"\"sitting\"\"\",cat/1.jpg\r\n8,zwei,cat/sub/3.jpg\r\n9,three,3.jpg\r\n9,日本 dog,only\r\n",
		"TSV": "cat/1.jpg\ta cat, " +
			"\"sitting\"\n\ncat/sub/3.jpg\tzwei\n./images/cat/sub/3.jpg\tthree\nonly.png\t日本 dog\n",
		"TSV with header": "text\timage\na cat, \"sitting\"\tcat/1.jpg\nzwei\tcat/sub/3\nthree\tcat/sub/3\n日本 " +
			"dog\tdog/only.webp\n",
		"JSON lines": `{"file_name":"cat/1.jpg","text":"a cat, \"sitting\""}` + "\n" +
			`{"file":"cat/sub/3.jpg","captions":["zwei","three"," "]}` + "\n\n" +
			`{"image":"any/only.webp","caption":"日本 dog","x":[1]}`,
		"COCO": `{"info":{"a":[{}]},"images":[{"id":1,"file_name":"cat/1.jpg"},{"id":2,"file_name":"sub/3.jpg"},` +
			`{"id":3,"file_name":"val2017/only.webp"}],` +
			`"annotations":[{"image_id":2,"id":1,"caption":"zwei"},{"image_id":1,"caption":"a cat, \"sitting\""},` +
			`{"image_id":2,"caption":"three\n"},` +
			`{"image_id":3,"caption":"日本 dog"}]}`,
		"COCO, other way": `{ "annotations" : [{"image_id":2,"caption":"three"},{"image_id":2,"caption":"zwei"},` +
			`{"image_id":1,"caption":"a cat, \"sitting\""},{"image_id":3,"caption":"日本 dog"}],` +
			`"images":[{"id":1,"file_name":"cat/1.jpg"},{"id":2,"file_name":"3"},{"id":3,"file_name":"only.webp"}]}`,
		"duplicate rows": "cat/1.jpg,\"a cat, \"\"sitting\"\"\"\ncat/1.jpg,\"a cat, " +
			"\"\"sitting\"\"\"\n3.jpg,zwei\n3.jpg,three\nonly.webp,日本 dog\nonly.webp,   \n",
		"not in the source": "cat/1.jpg\ta cat, \"sitting\"\n3\tzwei\n3\tthree\ncat/only.webp\tnot this " +
			"class\nbird/9.jpg\tno\nonly\t日本 dog\n",
	} {
		c, err := captionsFrom(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := byName(c, pets); !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", name, got, want)
		}
		if len(c.Texts) != 5 || c.Texts[0] != "" || !slices.IsSorted(c.Texts) || c.Stats.Without != 3 {
			t.Errorf("%s: texts %q, %+v", name, c.Texts, c.Stats)
		}
		switch s := c.Stats; {
		case name == "duplicate rows" && (s.Duplicates != 1 || s.Empty != 1 || s.Read != 6),
			name == "not in the source" && (s.Unmatched != 2 || s.FirstUnmatched != "cat/only.webp"):
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestCaptionHostileText(t *testing.T) {
	long := strings.Repeat("日", 10<<20/3)
	c, err := captionsFrom("cat/1.jpg\tbad \xff\xfe bytes\ncat/2.png\tnul \x00 and \u202e\u05d0\u05d1 " +
		"marks\nsub/3.jpg\t" + long + "\ndog/1.jpg\t \u00a0\u3000 \nonly\tfine\r\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"cat/1.jpg=bad \uFFFD bytes", "cat/2.png=nul \x00 and \u202e\u05d0\u05d1 marks",
		"cat/sub/3.jpg=" + long[:MaxLength/3*3], "dog/only.webp=fine"}
	if got := byName(c, pets); !slices.Equal(got, want) {
		t.Errorf("got %.300q", got)
	}
	if s := c.Stats; s.Invalid != 1 || s.Cut != 1 || s.Empty != 1 || s.Without != 2 || s.Read != 5 {
		t.Errorf("%+v", s)
	}
	for _, text := range c.Texts {
		if !utf8.ValidString(text) || len(text) > MaxLength {
			t.Errorf("%d bytes: %.100q", len(text), text)
		}
	}
	// A cut within bytes that are no text.
	if c, err = captionsFrom("cat/1.jpg\t" + strings.Repeat("\x80", 3*MaxLength)); err != nil ||
		c.Texts[1] != "\uFFFD" {
		t.Errorf("%v %.40q", err, c.Texts)
	}
}

func TestCaptionFilesRefused(t *testing.T) {
	huge := strings.Repeat("x", maxCaptionRecord+1<<18)
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "no captions in it"},
		{"blank", "\n \n", "no captions in it"},
		{"UTF-16", "\xff\xfea\x00", "UTF-16"},
		{"gzip", "\x1f\x8b\x08", "compressed"},
		{"array", `["a"]`, "a JSON array"},
		{"CSV, one column", "cat/1.jpg\n", "line 1: 1 column: want a file name and a caption"},
		{"CSV, comma", "cat/1.jpg,one\ncat/2.png,one, two\n", "line 2"},
		{"CSV, comma at once", "cat/1.jpg,one, two\n", "line 1: 3 columns"},
		{"CSV, quote", "cat/1.jpg,one\ncat/2.png,\"two\n", "line 2"},
		{"CSV, bare quote", "cat/1.jpg,one\ncat/2.png,a \"b\"\n", "line 2"},
		{"CSV, long", "cat/1.jpg,one\ncat/2.png,\"" + huge, "longer than"},
		{"CSV, no name", "cat/1.jpg,one\n ,two\n", "line 2: no file name"},
		{"TSV, columns", "cat/1.jpg\tone\ncat/2.png\n", "line 2: 1 column, the first line has 2"},
		{"TSV, long", "cat/1.jpg\tone\ncat/2.png\t" + huge, "line 2: longer than"},
		{"JSON lines, cut", `{"file":"cat/1.jpg","text":"a"}` + "\n" + `{"file":"ca`, "line 2: unexpected end"},
		{"JSON lines, no file", `{"text":"a"}`, "line 1: no file name"},
		{"JSON lines, no text", `{"file":"cat/1.jpg"}`, "line 1: no caption"},
		{"JSON lines, number", `{"file":"cat/1.jpg","text":5}`, `line 1: field "text": want a text`},
		{"COCO, cut", `{"images":[{"id":1,"file_name":"cat/1.jpg"}],"annotations":[{"image_id":1,"ca`, "cut short"},
		{"COCO, no list", `{"images":{"id":1}}`, "want a list"},
		{"COCO, one list", `{"images":[{"id":1,"file_name":"cat/1.jpg"}]}`, "want the lists images and annotations"},
		{"COCO, instances", `{"images":[{"id":1,"file_name":"cat/1.jpg"}],"annotations":[{"image_id":1,"bbox":[]}]}`,
			"not its instances"},
		{"COCO, unknown picture",
			`{"images":[{"id":1,"file_name":"cat/1.jpg"}],"annotations":[{"image_id":2,"caption":"a"}]}`,
			"picture 2, which is not in the list"},
		{"COCO, two names", `{"images":[{"id":1,"file_name":"cat/1.jpg"},{"id":1,"file_name":"b"}],"annotations":[]}`,
			"picture 1 is"},
		{"COCO, long", `{"images":[{"id":1,"file_name":"` + huge, "longer than"},
		{"two classes", "1.jpg,a\n", "1.jpg: is it 1.jpg of class cat or 1.jpg of class dog"},
		{"two extensions", "cat/2,a\n", "want it with the extension"},
		{"none fits", "birds/9.jpg,a\nbirds/8.jpg,b\n",
			`2 are for other pictures, the first of them for "birds/9.jpg"; ` +
				`the first picture here is "1.jpg" of class "cat"`},
		{"all empty", "cat/1.jpg,  \n", "of 1 that were read 1 are empty"},
	} {
		_, err := captionsFrom(c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestClassCaptions(t *testing.T) {
	classes, labels := []string{"a", "b", "c"}, []int32{0, 1, 2, 0, 1, 2, 0}
	c, err := OfClasses([]string{"class:a photo of a {}", "class:{}, {} again", "class:a photo of a {}"}, classes,
		labels)
	if err != nil {
		t.Fatal(err)
	}
	for id := range 7 {
		class := string("abc"[id%3])
		var got []string
		for _, r := range c.Of(id) {
			got = append(got, c.Texts[r])
		}
		if want := []string{class + ", " + class + " again", "a photo of a " + class}; !slices.Equal(got,
			slices.Sorted(slices.Values(want))) {
			t.Errorf("sample %d: %q", id, got)
		}
	}
	dir := datatest.WriteFiles(t,
		map[string][]byte{"templates.txt": []byte("\n one {} \r\n\ntwo {}\n"), "none.txt": []byte("\n"),
			"plain.txt": []byte("{}\nno class\n")})
	if c, err = OfClasses([]string{"class:@" + filepath.Join(dir, "templates.txt")}, classes, labels); err != nil ||
		len(c.Texts) != 7 || c.Texts[1] != "one a" {
		t.Errorf("%v %+v", err, c)
	}
	for spec, want := range map[string]string{
		"class:a photo": "want {}", "class:@" + filepath.Join(dir, "none.txt"): "0 templates",
		"class:@" + filepath.Join(dir, "plain.txt"): "template 2",
		"class:@" + dir: "want a text file", "class:@nowhere": "no such file", "data": "give the pictures too",
		"x.csv": "give the pictures too",
	} {
		if _, err := OfClasses([]string{spec}, classes, labels); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
	// ImageNet's classes by their first word.
	b := newCaptionBuilder(named{[]string{"n01440764"}, []catalog.Sample{sample("x", 0)}})
	if err := b.addClasses("a {}."); err != nil || b.texts[1] != "a tench." {
		t.Errorf("%v %q", err, b.texts)
	}
}

// captionRow is a picture with captions in parquet.
type captionRow struct {
	Image struct {
		Bytes []byte `parquet:"bytes"`
	} `parquet:"image"`
	Label int64    `parquet:"label"`
	Text  *string  `parquet:"text,optional"`
	List  []string `parquet:"alt,list"`
}

// byExtension are the members of an archive whose members were sorted by their extensions.
func byExtension(members []datatest.File) []datatest.File {
	members = slices.Clone(members)
	slices.SortStableFunc(members,
		func(a, b datatest.File) int { return strings.Compare(path.Ext(a.Name), path.Ext(b.Name)) })
	return members
}

func TestCaptionMembers(t *testing.T) {
	pic := datatest.PNG(t, 4, 4)
	text := func(s string) *string { return &s }
	members := []datatest.File{
		{"b.txt", []byte("of b\n")}, {"b.png", pic}, {"b.cls", []byte("1")},
		{"a.png", pic}, {"a.cls", []byte("0")}, {"a.json", []byte(`{"caption":"json a","label":3,"alt":["x","y"]}`)},
		{"c.png", pic}, {"c.cls", []byte("1")}, {"c.json", []byte(`{"text":"unused"}`)}, {"c.txt", []byte("of c")},
		{"c.long", []byte("long c")},
		{"d.png", pic}, {"d.cls", []byte("1")},
	}
	rows := make([]captionRow, 4)
	for i := range rows {
		rows[i].Image.Bytes = pic
	}
	rows[0].Text, rows[0].List = text("row 0"), []string{"p", "q"}
	rows[1].Label, rows[1].Text = 1, text("row 1")
	rows[3].Label, rows[3].List = 1, []string{"z"}
	var table bytes.Buffer
	if err := parquet.Write(&table, rows, parquet.MaxRowsPerRowGroup(2)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		files map[string][]byte
		spec  string
		want  string
	}{
		{"tar", map[string][]byte{"x.tar": datatest.Tar(t, members)}, "data",
			"[0/a.png=json a 1/b.png=of b 1/c.png=of c]"},
		{"members apart", map[string][]byte{"x.tar": datatest.Tar(t, byExtension(members))}, "data",
			"[0/a.png=json a 1/b.png=of b 1/c.png=of c]"},
		{"two tars", map[string][]byte{"x-0.tar": datatest.Tar(t, members[:6]),
			"x-1.tar": datatest.Tar(t, members[6:])}, "data", "[0/a.png=json a 1/b.png=of b 1/c.png=of c]"},
		{"shards without labels", map[string][]byte{
			"x-0.tar": datatest.Tar(t, []datatest.File{{"a.txt", []byte("of a")}, {"a.png", pic}}),
			"x-1.tar": datatest.Tar(t, []datatest.File{{"a.png", pic}, {"b.png", pic}, {"b.txt", []byte("of b")}})},
			"data", "[/x-0/a.png=of a /x-1/b.png=of b]"},
		{"compressed", map[string][]byte{"x.tar.gz": datatest.Gzip(t, datatest.Tar(t, members))}, "data",
			"[0/a.png=json a 1/b.png=of b 1/c.png=of c]"},
		{"JSON field", map[string][]byte{"x.tar": datatest.Tar(t, members)}, "data:alt", "[0/a.png=x;y]"},
		{"other member", map[string][]byte{"x.tar": datatest.Tar(t, members)}, "data:long", "[1/c.png=long c]"},
		{"parquet", map[string][]byte{"x.parquet": table.Bytes()}, "data",
			"[0/00000000.png=row 0 1/00000001.png=row 1]"},
		{"parquet list", map[string][]byte{"x.parquet": table.Bytes()}, "data:alt",
			"[0/00000000.png=p;q 1/00000003.png=z]"},
	} {
		src, err := catalog.Open(context.Background(), datatest.WriteFiles(t, c.files),
			catalog.Options{CacheDir: t.TempDir()})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		captions, err := Read(context.Background(), []string{c.spec}, src)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got := fmt.Sprint(byName(captions, src)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		src.Close()
	}
	for _, c := range []struct {
		name  string
		files map[string][]byte
		spec  string
		want  string
	}{
		{"tar without", map[string][]byte{"x.tar": datatest.Tar(t, members)}, "data:nothing",
			`want members .nothing, or .json with a field "nothing"`},
		{"parquet without", map[string][]byte{"x.parquet": table.Bytes()}, "data:nothing",
			"columns image.bytes, label, text, alt.list.element: want a column of text called nothing"},
		{"parquet, numbers", map[string][]byte{"x.parquet": table.Bytes()}, "data:label",
			"column label is of type INT64: want text"},
		{"JSON number", map[string][]byte{"x.tar": datatest.Tar(t, members)}, "data:label",
			`a.json: field "label": want a text`},
		{"folder", map[string][]byte{"a/1.png": pic}, "data", "the pictures are single files"},
		{"side folder", map[string][]byte{"a/1.png": pic}, t.TempDir(), "is a folder"},
		{"no side file", map[string][]byte{"a/1.png": pic}, "nowhere.csv", "no such file"},
	} {
		src, err := catalog.Open(context.Background(), datatest.WriteFiles(t, c.files),
			catalog.Options{CacheDir: t.TempDir()})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if _, err := Read(context.Background(), []string{c.spec}, src); err == nil ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		src.Close()
	}
}

// A folder of one class per file name would make the search for each row a walk over all classes.
func TestCaptionsOfManySamples(t *testing.T) {
	const classes, each = 500, 100
	var n named
	var text strings.Builder
	for c := range classes {
		n.classes = append(n.classes, fmt.Sprintf("c%03d", c))
		for i := range each {
			n.samples = append(n.samples, sample(fmt.Sprintf("%d.jpg", i), c))
			fmt.Fprintf(&text, "train/c%03d/%d.jpg,picture %d of %d\n", c, i, i, c)
		}
	}
	b := newCaptionBuilder(n)
	if err := b.addText(context.Background(), strings.NewReader(text.String())); err != nil {
		t.Fatal(err)
	}
	c, err := b.finish()
	if err != nil || c.Stats.Without != 0 || c.Stats.Unmatched != 0 ||
		c.Texts[c.Of(7*each + 5)[0]] != "picture 5 of 7" {
		t.Errorf("%v %+v", err, c.Stats)
	}
}

func FuzzCaptionFile(f *testing.F) {
	for _, seed := range []string{
		"cat/1.jpg,a\n", "file\tcaption\n1.jpg\tb", `{"file":"2.png","captions":["a","\ud800"]}`, "a,\"b\nc\"\n",
		"\uFEFFa,b", "..//../1.jpg,\x00\xff",
		`{"info":[[{}]],"images":[{"id":1,"file_name":"cat/1.jpg"}],"annotations":[{"image_id":1,"caption":"c"}]}`,
		`{"images":[`, `{"type":1,"images":[],"annotations":[]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := captionsFrom(string(text))
		if err != nil {
			return
		}
		for i := range pets.Len() {
			for _, r := range c.Of(i) {
				if s := c.Texts[r]; s == "" || !utf8.ValidString(s) || len(s) > 3*MaxLength ||
					s != strings.TrimSpace(s) {
					t.Errorf("caption %q", s)
				}
			}
		}
	})
}
