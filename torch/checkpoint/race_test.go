//go:build race

package checkpoint

// raceEnabled says that the race detector slows everything down.
const raceEnabled = true
