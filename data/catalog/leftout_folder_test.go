package catalog

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
	"github.com/ditrun/ditrun/data/store/storetest"
)

// TestFolderLeavesOut: hidden files, system folders and what is no picture are left out at any depth, in one line.
func TestFolderLeavesOut(t *testing.T) {
	server := &storetest.Server{}
	server.Serve(t)
	files := treeOf(`cat/1.jpg cat/2.GIF cat/deep/3.png dog/1.jpg .ipynb_checkpoints/1.jpg .ipynb_checkpoints/2.jpg
		__MACOSX/cat/._1.jpg cat/.ipynb_checkpoints/1-checkpoint.jpg cat/._1.jpg dog/.DS_Store .DS_Store dog/a.heic
		dog/b.HEIC notes.txt loose.png @eaDir/cat/x.jpg dog/readme`)
	src, notes, err := openBoth(t, server, files, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"cat", "dog"}; !slices.Equal(src.Classes(), want) {
		t.Errorf("classes %q, want %q", src.Classes(), want)
	}
	var got []string
	for i := range src.Len() {
		got = append(got, src.Sample(i).Name)
	}
	if want := []string{"1.jpg", "2.GIF", "deep/3.png", "1.jpg"}; !slices.Equal(got, want) {
		t.Errorf("samples %q, want %q", got, want)
	}
	if want := "left out: 3 hidden, 3 in .ipynb_checkpoints, 2 .heic, 1 .txt, 1 in @eaDir, 1 in __MACOSX, " +
		"1 in no class folder (--unconditional takes them too), 1 without extension"; notes != want {
		t.Errorf("notes %q, want %q", notes, want)
	}
}

// TestLeavesOutElsewhere: other forms of a data set leave the same out.
func TestLeavesOutElsewhere(t *testing.T) {
	server := &storetest.Server{}
	server.Serve(t)
	p := datatest.PNG(t, 2, 2)
	labels := filepath.Join(t.TempDir(), "labels.csv")
	if err := os.WriteFile(labels, []byte("1.png,cat\n2.png,dog\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	archive := datatest.Tar(t, []datatest.File{{"cat/1.png", p}, {"dog/2.png", p}})
	images, numbers := idxFile([]int{2, 1, 1}, []byte{5, 6}), idxFile([]int{2}, []byte{0, 1})
	for name, c := range map[string]struct {
		files map[string][]byte
		o     Options
		note  string
	}{
		"flat with labels": {
			map[string][]byte{"1.png": p, "2.png": p, "._1.png": p, ".ipynb_checkpoints/1.png": p, "a.heic": p},
			Options{Labels: labels},
			"left out: 1 .heic, 1 hidden, 1 in .ipynb_checkpoints",
		},
		"archives": {
			map[string][]byte{"a.tar": archive, "._a.tar": p, ".cache/x.png": p, ".git/b.tar": p, "README.md": p},
			Options{},
			"beside the archives left out: 1 .md, 1 hidden, 1 in .cache, 1 in .git",
		},
		"IDX": {
			map[string][]byte{
				"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": numbers, "classes.txt": []byte("a\nb\n"),
				"t10k-images-idx3-ubyte": images, "t10k-labels-idx1-ubyte": numbers,
				"x.png": p, "._x.png": p, "notes.txt": p,
			}, Options{},
			"left out: 1 .png, 1 .txt, 1 hidden",
		},
	} {
		t.Run(name, func(t *testing.T) {
			src, notes, err := openBoth(t, server, c.files, c.o)
			if err != nil {
				t.Fatal(err)
			}
			if src.Len() != 2 || len(src.Classes()) != 2 || notes != c.note {
				t.Errorf("%d samples, classes %q, notes %q, want %q", src.Len(), src.Classes(), notes, c.note)
			}
		})
	}
	dir := datatest.WriteFiles(t, map[string][]byte{"1.png": p, "2.png": p, "1.txt": p, "other.md": p, ".1.txt": p})
	src, err := Open(t.Context(), filepath.Join(dir, "[12]*"), Options{Labels: labels})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"left out: 1 .txt"}; src.Len() != 2 || !slices.Equal(src.Notes(), want) {
		t.Errorf("pattern: %d samples, notes %q, want %q", src.Len(), src.Notes(), want)
	}
}

// TestFoldersRefused: folders that are no classes are named, with the way out.
func TestFoldersRefused(t *testing.T) {
	server := &storetest.Server{}
	server.Serve(t)
	for name, c := range map[string]struct{ files, want string }{
		"HEIC alone": {
			"a/1.jpg b/1.heic b/2.HEIC b/x.txt",
			`class folder "b" holds no pictures (.jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp .gif): ` +
				`left out: 2 .heic, 1 .txt: convert the .heic files to JPEG or PNG`,
		},
		"checkpoints": {
			"a/1.jpg b/.ipynb_checkpoints/1.jpg",
			`class folder "b" holds no pictures (.jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp .gif): ` +
				`left out: 1 in .ipynb_checkpoints: put pictures into it`,
		},
		"archives": {
			"a/1.jpg data/1.parquet",
			`class folder "data" holds no pictures (.jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp .gif): ` +
				`left out: 1 .parquet: to open archives, name them with a pattern: SET/data/*.parquet`,
		},
		"hidden alone": {
			".git/1.jpg .DS_Store",
			"no pictures: want a folder of pictures (jpg, png, ...), tar archives, parquet or IDX files " +
				"(train-images-idx3-ubyte); left out: " +
				"1 hidden, 1 in .git",
		},
		"latents": {
			"a/1.jpg out/latents-00000-of-00002.safetensors out/preview.png",
			"SET/out holds encoded latents, not pictures to train on: move it out of the folder",
		},
		"latents, deep": {
			"a/1.jpg a/b/latents-00000-of-00002.safetensors a/b/preview.png",
			"SET/a/b holds encoded latents",
		},
		"run": {
			"a/1.jpg results/000-DiT/run.json results/000-DiT/log.jsonl results/000-DiT/loss.png",
			"SET/results/000-DiT holds a run of train",
		},
		"the run itself": {
			"run.json config.yaml loss.png samples/0000020.png",
			"holds a run of train, want pictures",
		},
		"autoencoder": {
			"a/1.jpg vae/config.json vae/diffusion_pytorch_model.safetensors vae/reconstructions.png",
			"SET/vae holds an autoencoder",
		},
		"train-vae cut": {
			"a/1.jpg vae/training/train-vae.json vae/training/optimizer.safetensors",
			"SET/vae/training holds a run of train-vae",
		},
		"mixed with one": {
			"a/1.jpg config.json diffusion_pytorch_model.safetensors reconstructions.png",
			"holds an autoencoder, want pictures",
		},
		"samples": {
			"a/1.jpg drawn/labels.csv drawn/000000.png drawn/000001.png",
			"SET/drawn holds pictures drawn by sample",
		},
		"samples, no file": {"labels.csv 000000.png 000001.png", "holds pictures drawn by sample: "},
		"composed twice": {
			"M\u00e4use/1.jpg Ma\u0308use/1.jpg",
			`classes "Ma\u0308use" and "M\u00e4use" have the same name, with accented letters composed in two ways: ` +
				`merge them`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := openBoth(t, server, treeOf(c.files), Options{})
			want := strings.ReplaceAll(c.want, "SET", "s3://bucket/set")
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q", err, want)
			}
		})
	}
	// An empty folder is known on this machine alone.
	dir := datatest.WriteFiles(t, treeOf("a/1.jpg"))
	if err := os.Mkdir(filepath.Join(dir, "b"), 0o777); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), dir, Options{})
	if err == nil || !strings.HasSuffix(err.Error(), "; --unconditional takes the pictures there are, "+
		"without classes") {
		t.Errorf("empty class folder: error %v", err)
	}
	// So is a hidden one, which is no class.
	if err := os.Rename(filepath.Join(dir, "b"), filepath.Join(dir, ".b")); err != nil {
		t.Fatal(err)
	}
	if src, err := Open(t.Context(), dir, Options{}); err != nil || len(src.Classes()) != 1 || len(src.Notes()) != 0 {
		t.Errorf("empty hidden folder: %v", err)
	}
}

// TestFolderNotes: what is odd about classes and yet may be meant is said.
func TestFolderNotes(t *testing.T) {
	dir := datatest.WriteFiles(t, treeOf("Cat/1.jpg cat/1.jpg dog/1.jpg"))
	if err := os.Symlink("dog", filepath.Join(dir, "puppy")); err != nil {
		t.Fatal(err)
	}
	src, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`classes "dog" and "puppy" are the same folder, through a link: its pictures are in both classes`,
		`classes "Cat" and "cat" differ only in case`,
	}
	if !slices.Equal(src.Notes(), want) || src.Len() != 4 {
		t.Errorf("%d samples, notes %q, want %q", src.Len(), src.Notes(), want)
	}
}

// TestDeadLinkOfClass: a link that leads nowhere may have been a class, so the others are not numbered without it.
func TestDeadLinkOfClass(t *testing.T) {
	dir := datatest.WriteFiles(t, treeOf("cat/1.jpg dog/1.jpg"))
	for link, to := range map[string]string{"cat/notes": "/nowhere/n", "cat/a.txt": "a.txt", ".hidden": "/nowhere/h"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	src, err := Open(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"left out: 2 that cannot be read, 1 hidden"}; !slices.Equal(src.Notes(), want) {
		t.Errorf("notes %q, want %q", src.Notes(), want)
	}
	if err := os.Symlink("/nowhere/bee", filepath.Join(dir, "bee")); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), dir, Options{})
	if want := "open " + dir + "/bee: a link to nothing: there is no /nowhere/bee: mend it"; err == nil ||
		!strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

// TestFolderUnlisted: a folder whose files cannot be listed is an error that names it, unless it would be left out.
func TestFolderUnlisted(t *testing.T) {
	dir := datatest.WriteFiles(t, treeOf("cat/1.jpg cat/deep/2.jpg lost+found/1.jpg"))
	for _, link := range []string{"cat/deep/up", "lost+found/up"} {
		if err := os.Symlink(dir, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Open(t.Context(), dir, Options{})
	up := filepath.Join(dir, "cat/deep/up")
	want := "open " + up + ": the folder cannot be listed: symbolic link to a folder above it"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
	if err := os.Remove(up); err != nil {
		t.Fatal(err)
	}
	if src, err := Open(t.Context(), dir, Options{}); err != nil || src.Len() != 2 {
		t.Errorf("error %v", err)
	}
	if os.Geteuid() == 0 {
		t.Skip("the superuser may list every folder")
	}
	secret := filepath.Join(dir, "secret.txt") // a file that nobody asks for may be unreadable
	if err := os.WriteFile(secret, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir, Options{}); err != nil {
		t.Error(err)
	}
	deep := filepath.Join(dir, "cat/deep")
	if err := os.Chmod(deep, 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(deep, 0o777)
	_, err = Open(t.Context(), dir, Options{})
	want = "open " + deep + ": the folder cannot be listed: permission denied: make it readable"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

// TestIDXBelow: the folder that torchvision keeps IDX files in may be named one or two levels up.
func TestIDXBelow(t *testing.T) {
	server := &storetest.Server{}
	server.Serve(t)
	images, numbers := idxFile([]int{2, 1, 1}, []byte{5, 6}), idxFile([]int{2}, []byte{0, 1})
	of := func(dirs ...string) map[string][]byte {
		files := map[string][]byte{}
		for _, dir := range dirs {
			files[dir+"train-images-idx3-ubyte"], files[dir+"train-images-idx3-ubyte.gz"] = images,
				datatest.Gzip(t, images)
			files[dir+"train-labels-idx1-ubyte"] = numbers
		}
		return files
	}
	for _, dir := range []string{"raw/", "FashionMNIST/raw/"} {
		src, notes, err := openBoth(t, server, of(dir), Options{})
		if err != nil {
			t.Fatal(err)
		}
		want := "the IDX files in SET/" + strings.TrimSuffix(dir, "/") + " are used"
		if src.Len() != 2 || notes != want {
			t.Errorf("%d samples, notes %q, want %q", src.Len(), notes, want)
		}
	}
	_, _, err := openBoth(t, server, of("MNIST/raw/", "FashionMNIST/raw/"), Options{})
	want := "several folders in it hold IDX files: name one of them: " +
		"s3://bucket/set/FashionMNIST/raw, s3://bucket/set/MNIST/raw"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}
