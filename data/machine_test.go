package data

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// withoutDescriptors calls f while no file can be opened; those that are open stay so.
func withoutDescriptors(t *testing.T, f func()) {
	t.Helper()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	}()
	f()
}

// An error of the machine is not taken for one of the files: nobody is told to make them again, or to delete them.
func TestErrorsOfTheMachine(t *testing.T) {
	dir := testLatents(t, testPlan(10))
	if _, err := WriteText(t.Context(), dir, captionsOfIDs(t, 10), &wordEncoder{sum: "s"}, textOptions); err != nil {
		t.Fatal(err)
	}
	l, err := OpenLatents(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	check := func(what string, err error) {
		if !errors.Is(err, syscall.EMFILE) {
			t.Errorf("%s: %v", what, err)
			return
		}
		for _, advice := range []string{"again", "delete", "damaged", "choose another"} {
			if strings.Contains(err.Error(), advice) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	withoutDescriptors(t, func() {
		_, err := TextOf(l)
		check("captions", err)
		_, err = openShard(filepath.Join(l.dir, l.m.Shards[0].File), &l.m.Plan, 0)
		check("shard", err)
		_, err = OpenLatents(l.dir)
		check("latents", err)
		_, err = NewShardWriter(l.dir, l.m.Plan)
		check("writer", err)
	})
}
