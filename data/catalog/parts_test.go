package catalog

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/store/storetest"
)

// treeOf returns empty files of the given names; blanks separate names.
func treeOf(names string) map[string][]byte {
	files := map[string][]byte{}
	for _, name := range strings.Fields(names) {
		files[name] = nil
	}
	return files
}

// openBoth opens a data set in a folder and the same in remote storage, and wants one result: classes and notes, or an
// error. What depends on the place is cut out.
func openBoth(t *testing.T, server *storetest.Server, files map[string][]byte, o Options) (
	src Source, notes string, err error,
) {
	t.Helper()
	o.CacheDir = t.TempDir()
	dir := datatest.WriteFiles(t, files)
	server.Change(func() { server.Objects = datatest.Below("set", files) })
	var texts []string
	for _, location := range []string{dir, "s3://bucket/set"} {
		src, err = Open(t.Context(), location, o)
		text := ""
		if err != nil {
			text = err.Error()
		} else {
			notes = strings.Join(src.Notes(), "\n")
			text = strings.Join(src.Classes(), "\n") + "\n" + notes
			t.Cleanup(func() { src.Close() })
		}
		texts = append(texts, strings.ReplaceAll(text, location, "SET"))
	}
	if texts[0] != texts[1] {
		t.Errorf("in a folder\n%s\nin remote storage\n%s", texts[0], texts[1])
	}
	return src, strings.ReplaceAll(notes, "s3://bucket/set", "SET"), err
}

// TestParts: folders that are parts of a data set are refused, whatever is in them; classes that are named so are not.
func TestParts(t *testing.T) {
	server := &storetest.Server{}
	server.Serve(t)
	for name, c := range map[string]struct {
		files   string
		refused string
		classes int // where it is not refused
		note    string
	}{
		"classes in both": {
			"train/a/1.png train/b/1.png val/a/2.png",
			"it holds parts of a data set (train, val), not classes: name one of them, such as SET/train", 0, "",
		},
		"classes in one": {
			"train/a/1.png train/b/1.png test/2.png",
			"(test, train), not classes: name one of them, such as SET/train", 0, "",
		},
		"classes in none": {
			"train/1.png test/2.png",
			"(test, train), not classes: none of them has class folders: ", 0, "",
		},
		"any case": {"Training/a/1.png Testing/a/2.png", "such as SET/Training", 0, ""},
		"validation": {
			"valid/a/1.png test/a/2.png",
			"(test, valid), not classes: name one of them, such as SET/test", 0, "",
		},
		"beside annotations": {
			"train/a/1.png test/2.png annotations/x.xml",
			"(test, train), not classes", 0, "",
		},
		"beside other pictures": {"train/a/1.png test/2.png unlabeled/3.png", "(test, train), not classes", 0, ""},
		"one without pictures":  {"train/a/1.png test/a/2.heic", "(test, train), not classes", 0, ""},
		"with a year":           {"train2017/1.png val2017/2.png", "(train2017, val2017), not classes", 0, ""},
		"with a word before": {
			"seg_train/a/1.png seg_test/a/2.png",
			"(seg_test, seg_train), not classes: name one of them, such as SET/seg_train", 0, "",
		},
		"with a word behind": {
			"training_set/a/1.png test_set/a/2.png",
			"(test_set, training_set), not classes", 0, "",
		},
		"train alone": {
			"train/a/1.png train/b/1.png",
			"(train), not classes: name one of them, such as SET/train", 0, "",
		},
		"train and annotations": {
			"train/a/1.png annotations/x.xml",
			"(train), not classes: name one of them, such as SET/train", 0, "",
		},
		"copies beside classes": {
			"a/1.png b/1.png c/1.png train/a/1.png test/a/2.png",
			"(test, train), not classes", 0, "",
		},
		"shared folders": {
			"v/1.png w/1.png x/1.png y/1.png train/a/1.png test/a/2.png",
			"(test, train), not classes", 0, "",
		},
		"classes in one of many": {
			"v/1.png w/1.png x/1.png train/a/1.png train/b/1.png test/2.png", "(test, train), not classes", 0, "",
		},
		"one level down": {
			"flowers/train/a/1.png flowers/test/a/2.png",
			"SET/flowers holds parts of a data set (test, train), not classes: " +
				"name one of them, such as SET/flowers/test", 0, "",
		},
		"a class named test":  {"test/1.png cat/1.png dog/1.png", "", 3, ""},
		"a class named train": {"train/steam/1.png bus/1.png car/1.png", "", 3, ""},
		"flat train alone":    {"train/1.png", "", 1, `all pictures are in one class, called "train"`},
		"train of two, flat others": {
			"train/a/1.png train/b/1.png extra/1.png", "", 2,
			`"train" is taken for a class, and its 2 folders are not: ` +
				"if it is a part of the data set, name SET/train",
		},
		"dev": {
			"train/1.png dev/a/2.png", "(dev, train), not classes: name one of them, such as SET/dev", 0, "",
		},
		"train first":              {"a_test/1.png a_train/1.png", ": name one of them, such as SET/a_train; ", 0, ""},
		"words that only have it":  {"bullet_train/1.png test_tube/1.png", "", 2, ""},
		"letters that only are it": {"contest/1.png trainers/1.png valley/1.png", "", 3, ""},
		"two among many": {
			"train/1.png test/1.png a/1.png b/1.png c/1.png",
			"", 5, "test and train are taken for classes, as there are 3 others: " +
				"if they are parts of the data set, name one of them, such as SET/test",
		},
		"parts in each class": {
			"bottle/train/good/1.png bottle/test/bad/1.png cable/train/good/1.png",
			"" +
				"", 2, "pictures of several parts of the data set are in one class, " +
				`such as test and train of class "bottle" (1 of 2 classes)`,
		},
		"classes one level down": {
			"flowers/a/1.png flowers/b/1.png",
			"", 1,
			`all pictures are in one class, "flowers": to make classes of the 2 folders in it, name SET/flowers; ` +
				"--unconditional takes the pictures without classes",
		},
	} {
		t.Run(name, func(t *testing.T) {
			src, notes, err := openBoth(t, server, treeOf(c.files), Options{})
			switch {
			case c.refused != "":
				want := strings.ReplaceAll(c.refused, "SET", "s3://bucket/set")
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q", err, want)
				}
			case err != nil:
				t.Error(err)
			default:
				if len(src.Classes()) != c.classes || notes != c.note {
					t.Errorf("classes %q, notes %q, want %d and %q", src.Classes(), notes, c.classes, c.note)
				}
			}
		})
	}
}

// TestPartsWithLabels: where a file says the classes, parts may be taken together, which is said.
func TestPartsWithLabels(t *testing.T) {
	files := treeOf("train/1.png test/2.png")
	files["labels.csv"] = []byte("1.png,cat\n2.png,dog\n")
	dir := datatest.WriteFiles(t, files)
	src, err := Open(t.Context(), dir, Options{Labels: filepath.Join(dir, "labels.csv")})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"the pictures of several parts of the data set are taken together: test, train"}
	if !slices.Equal(src.Notes(), want) {
		t.Errorf("notes %q, want %q", src.Notes(), want)
	}
}

// TestKaggleTrainingPart: of ImageNet as Kaggle packs it the training part is opened, which is said.
func TestKaggleTrainingPart(t *testing.T) {
	server := &storetest.Server{}
	server.Serve(t)
	src, notes, err := openBoth(t, server, treeOf(`ILSVRC/Data/CLS-LOC/train/a/1.JPEG ILSVRC/Data/CLS-LOC/train/b/1.JPEG
		ILSVRC/Data/CLS-LOC/val/2.JPEG ILSVRC/Data/CLS-LOC/train/b/x.txt ILSVRC/Annotations/1.xml x.csv`), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := "left out: 1 .txt\nonly the training part is used: SET/ILSVRC/Data/CLS-LOC/train"
	if src.Len() != 2 || notes != want {
		t.Errorf("%d samples, notes %q, want %q", src.Len(), notes, want)
	}
}
