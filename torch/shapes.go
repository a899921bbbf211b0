package torch

// Shapes returns a scope for models that are listed and counted, not computed with: what [Scope.Placeholder] makes on
// it has a shape and a type, and no elements. It needs no libtorch, and no [Run]; its operations panic with an *Error.
func Shapes() *Scope { return &Scope{} }

// OnlyShapes reports whether s is a scope of [Shapes].
func (s *Scope) OnlyShapes() bool { return s.a == nil }

// Placeholder makes a tensor without elements on a scope of [Shapes]: closing it does nothing, and what a closed tensor
// cannot do it cannot either. Placeholder panics with an *Error where s is another scope.
func (s *Scope) Placeholder(dt DType, dims ...int) *Tensor {
	if !s.OnlyShapes() {
		misuse("Placeholder", "want a scope of Shapes")
	}
	return &Tensor{shape: dims, dtype: dt, dev: s.dev}
}
