package torch

// Shapes returns a scope for models that are listed and counted, not computed with: what [Scope.Placeholder] makes on
// it has a shape and a type, and no elements. Operations on it panic. It needs no libtorch.
func Shapes() *Scope { return &Scope{} }

// OnlyShapes reports whether s is a scope of [Shapes].
func (s *Scope) OnlyShapes() bool { return s.a == nil }

// Placeholder makes a tensor without elements on a scope of [Shapes]. Whatever would read or compute with it panics;
// closing it does nothing.
func (s *Scope) Placeholder(dt DType, dims ...int) *Tensor {
	if !s.OnlyShapes() {
		misuse("Placeholder", "want a scope of Shapes")
	}
	return &Tensor{shape: dims, dtype: dt, dev: s.dev}
}
