// Package testtool gives tests what they need of the machine: free ports, and tools.
//
// A test whose tool is missing calls [Missing]. On a developer's machine it is skipped with the reason. With CI set
// it fails: a machine that runs .ci/run has everything that the build needs, and a skip there would hide that a
// test no longer runs. Tests that need more than the build (root, a GPU, strace, a Python with torch) skip by
// themselves.
package testtool

import (
	"os"
	"testing"
)

// Missing ends a test that lacks something that the build needs, such as libtorch or a C compiler. It skips the test,
// or fails it if CI is set. The arguments are those of Skip.
func Missing(t testing.TB, why ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why...)
	}
	t.Skip(why...)
}
