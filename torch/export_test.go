package torch

// Unlocked is Run on a goroutine that may change its OS thread between operations, which shows
// whether anything thread-local outlives a call.
func Unlocked(dev Device, f func(s *Scope) error) error { return try(dev, modeGrad, f) }

// Abandon opens a scope that nobody will close.
func Abandon(dev Device) *Scope { return &Scope{a: newArena(), mode: modeGrad, dev: dev} }
