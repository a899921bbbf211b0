package torch

// Unlocked is Run on a goroutine that may change its OS thread between operations, which shows
// whether anything thread-local outlives a call.
func Unlocked(dev Device, f func(s *Scope) error) error {
	return try(&Scope{mode: modeGrad, dev: dev}, f)
}

// Abandon opens a scope that nobody will close.
func Abandon(dev Device) *Scope { return &Scope{a: newArena(), mode: modeGrad, dev: dev} }

// Modes of a scope, and the one that libtorch is in during a call on s.
const (
	ModeGrad          = modeGrad
	ModeTF32          = modeTF32
	ModeDeterministic = modeDeterministic
)

func (s *Scope) ModeWithin() uint32 { return s.modeWithin() }

// CaptureOnGPU captures as on a GPU, with the libditcuda.so of OpenPlugin.
func (s *Scope) CaptureOnGPU(f func(s *Scope) []*Tensor) *Graph { return s.capture(f, true) }

// QueueFree queues free as the cleanup of something that was dropped does.
func QueueFree(free func()) { queueFree(free) }

// Operand is what a capture notes of t.
func Operand(t *Tensor) string { return string(t.appendOperand(nil)) }
