// Package nn holds the layers that the models are made of, and the walk over a model's parameters.
//
// A model is a Go struct. A field that holds a parameter, or a module that contains one, carries
// its name in the state dict in a tag:
//
//	type Block struct {
//		Norm Norm      // no tensors inside: no tag
//		Attn Attention `dit:"attn"`
//		AdaLN Linear   `dit:"adaLN_modulation.1"`
//	}
//
// The grammar of the tag is name[,buffer][,optional][,product][,derived]; "-" skips the field. A derived tensor follows
// from the configuration: it is freed with the module and is none of its parameters. A slice or array adds
// the index to the name (blocks.0, blocks.1, ...); a nil module is absent. The order of parameters
// is the order of declaration.
//
// Shape letters: N batch, T tokens, D width, C channels, H and W height and width.
package nn

import (
	"fmt"
	"iter"
	"reflect"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/torch"
)

// A Param is one tensor of a model.
type Param struct {
	Name   string
	Tensor *torch.Tensor
	Buffer bool // not trained
	// Product says that it is of a matrix product or a convolution, which compute in the type of the precision. Norms,
	// tables and positions are not.
	Product bool
}

var tensorType = reflect.TypeFor[*torch.Tensor]()

// Params yields the parameters and buffers of the module m (a pointer to a struct) with their names
// in the state dict, in order of declaration. A tensor that occurs twice is yielded once. It panics
// where a tag in the struct is wrong or a tensor that is not optional is missing, which are mistakes in
// the program. So does whatever else takes a module.
func Params(m any) iter.Seq2[string, *torch.Tensor] {
	return func(yield func(string, *torch.Tensor) bool) {
		for _, p := range List(m) {
			if !yield(p.Name, p.Tensor) {
				return
			}
		}
	}
}

// List returns what [Params] yields, with more detail.
func List(m any) []Param {
	var out []Param
	seen := map[*torch.Tensor]bool{}
	names := map[string]bool{}
	walk(reflect.ValueOf(m), "", options{}, func(name string, field reflect.Value, opt options) {
		t := field.Interface().(*torch.Tensor)
		if opt.derived {
			return
		}
		if t == nil {
			if !opt.optional {
				panic(fmt.Sprintf("nn: %T: tensor %q is nil and not optional", m, name))
			}
			return
		}
		if seen[t] {
			return
		}
		if names[name] {
			panic(fmt.Sprintf("nn: %T: two tensors are called %q", m, name))
		}
		seen[t], names[name] = true, true
		out = append(out, Param{name, t, opt.buffer, opt.product})
	})
	return out
}

type options struct{ buffer, optional, product, derived bool }

func parseTag(tag string) (name string, opt options, err error) {
	parts := strings.Split(tag, ",")
	for _, p := range parts[1:] {
		switch p {
		case "buffer":
			opt.buffer = true
		case "optional":
			opt.optional = true
		case "product":
			opt.product = true
		case "derived":
			opt.derived = true
		default:
			return "", opt, fmt.Errorf("unknown option %q", p)
		}
	}
	return parts[0], opt, nil
}

// walk calls visit with every tensor field and slice element below v, which is called name.
func walk(v reflect.Value, name string, opt options, visit func(string, reflect.Value, options)) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.Type() == tensorType {
			visit(name, v, opt)
		} else if !v.IsNil() { // a nil module is absent
			walk(v.Elem(), name, opt, visit)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			walk(v.Index(i), join(name, strconv.Itoa(i)), opt, visit)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if !field.IsExported() {
				continue
			}
			tag, tagged := field.Tag.Lookup("dit")
			if tag == "-" {
				continue
			}
			if !tagged {
				if holdsTensors(field.Type, map[reflect.Type]bool{}) {
					panic(fmt.Sprintf("nn: %v.%s: a field with tensors needs a dit tag with its name", v.Type(),
						field.Name))
				}
				continue
			}
			last, opt, err := parseTag(tag)
			if err != nil {
				panic(fmt.Sprintf("nn: %v.%s: tag %q: %v", v.Type(), field.Name, tag, err))
			}
			walk(v.Field(i), join(name, last), opt, visit)
		}
	default:
		panic(fmt.Sprintf("nn: %q: a %v holds no parameters", name, v.Type()))
	}
}

func join(prefix, name string) string {
	switch {
	case prefix == "":
		return name
	case name == "":
		return prefix
	}
	return prefix + "." + name
}

// holdsTensors reports whether a value of type t can contain a tensor in an exported field.
func holdsTensors(t reflect.Type, seen map[reflect.Type]bool) bool {
	if t == tensorType {
		return true
	}
	if seen[t] {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return holdsTensors(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && f.Tag.Get("dit") != "-" && holdsTensors(f.Type, seen) {
				return true
			}
		}
	}
	return false
}

// Bind makes the fields of the module m refer to other tensors, found by name. The old ones are not
// closed. It panics where a name of m is not among params, which is a mistake in the program.
func Bind(m any, params []Param) {
	byName := map[string]*torch.Tensor{}
	for _, p := range params {
		byName[p.Name] = p.Tensor
	}
	bound := map[*torch.Tensor]*torch.Tensor{} // a tied tensor is known by its first name only
	walk(reflect.ValueOf(m), "", options{}, func(name string, field reflect.Value, opt options) {
		if field.IsNil() || opt.derived {
			return
		}
		old := field.Interface().(*torch.Tensor)
		t, ok := bound[old]
		if !ok {
			t, ok = byName[name]
			bound[old] = t
		}
		if !ok {
			panic(fmt.Sprintf("nn: bind %T: no tensor %q", m, name))
		}
		field.Set(reflect.ValueOf(t))
	})
}

// Copy returns a module like m, with the tensors of m, whose tensor fields can be set without a change
// to m: what it has behind pointers, slices and interfaces is its own.
func Copy[M any](m *M) *M {
	c := *m
	unshare(reflect.ValueOf(&c).Elem())
	return &c
}

// unshare gives v, which can be set, its own copy of what it refers to, down to the tensors.
func unshare(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.Type() != tensorType && !v.IsNil() {
			c := reflect.New(v.Type().Elem())
			c.Elem().Set(v.Elem())
			unshare(c.Elem())
			v.Set(c)
		}
	case reflect.Interface:
		if !v.IsNil() {
			c := reflect.New(v.Elem().Type()).Elem()
			c.Set(v.Elem())
			unshare(c)
			v.Set(c)
		}
	case reflect.Slice:
		if !v.IsNil() {
			c := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
			reflect.Copy(c, v)
			v.Set(c)
		}
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			unshare(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if tag, tagged := field.Tag.Lookup("dit"); tagged && tag != "-" && field.IsExported() {
				unshare(v.Field(i))
			}
		}
	}
}

// NumParams returns the number of elements of all parameters and buffers.
func NumParams(m any) int {
	n := 0
	for _, t := range Params(m) {
		n += t.NumElements()
	}
	return n
}

// Close frees every parameter of m and what is derived. It panics with a *torch.Error where one belongs to a scope.
func Close(m any) {
	for _, t := range Params(m) {
		t.Close()
	}
	walk(reflect.ValueOf(m), "", options{}, func(_ string, field reflect.Value, opt options) {
		if t := field.Interface().(*torch.Tensor); t != nil && opt.derived {
			t.Close()
		}
	})
}
