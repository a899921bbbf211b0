package latents

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ditrun/ditrun/data/internal/datatest"
)

// An error of the machine is not taken for one of a shard, as in TestErrorsOfTheMachine of package tokens.
func TestShardErrorOfTheMachine(t *testing.T) {
	l, err := Open(testLatents(t, testPlan(10)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	datatest.WithoutDescriptors(t, func() {
		_, err = openShard(filepath.Join(l.Dir(), l.Manifest().Shards[0].File), &l.Manifest().Plan, 0)
	})
	if !errors.Is(err, syscall.EMFILE) {
		t.Fatalf("shard: %v", err)
	}
	for _, advice := range []string{"again", "delete", "damaged", "choose another"} {
		if strings.Contains(err.Error(), advice) {
			t.Errorf("shard: %v", err)
		}
	}
}
