package pickle

import (
	"errors"
	"fmt"
	"strings"
)

// global pushes the name of a function or class.
func (d *Decoder) global(op byte) error {
	d.objects++
	var module, name string
	var err error
	if op == 'c' {
		if module, err = d.line(); err == nil {
			name, err = d.line()
		}
		if err != nil {
			return err
		}
	} else {
		n, err := d.pop()
		if err != nil {
			return err
		}
		m, err := d.pop()
		if err != nil {
			return err
		}
		var isModule, isName bool
		module, isModule = m.(string)
		if name, isName = n.(string); !isModule || !isName {
			return errors.New("a name that is no string")
		}
	}
	if err := refuse(module, name); err != nil {
		return err
	}
	d.push(Global(module + "." + name))
	return nil
}

// hostileModules are those that a weight file has no business with: by their functions a pickle would act on
// the machine. Other unknown names are never looked up and become objects without content.
var hostileModules = strings.Fields("os posix nt sys subprocess builtins __builtin__ shutil socket importlib runpy " +
	"pty ctypes pickle _pickle code codeop " +
	"commands webbrowser io _io marshal types functools operator _operator multiprocessing threading asyncio signal " +
	"pathlib tempfile platform pip " +
	"pdb bdb timeit trace imp zipimport site inspect glob urllib http requests ssl ftplib smtplib telnetlib shelve " +
	"dill cloudpickle joblib getpass nturl2path")

// harmlessNames are the names of those modules that some writers use for plain data.
var harmlessNames = strings.Fields("builtins.set builtins.frozenset builtins.dict builtins.list builtins.tuple " +
	"builtins.str builtins.bytes builtins.bool builtins.int builtins.float " +
	"builtins.bytearray builtins.complex builtins.slice builtins.range builtins.object __builtin__.set " +
	"__builtin__.frozenset __builtin__.dict __builtin__.list __builtin__.tuple __builtin__.str " +
	"__builtin__.unicode __builtin__.bool __builtin__.int __builtin__.long __builtin__.float __builtin__.bytearray " +
	"__builtin__.complex __builtin__.object pathlib.PosixPath pathlib.WindowsPath")

func refuse(module, name string) error {
	full := module + "." + name
	for _, h := range harmlessNames {
		if full == h {
			return nil
		}
	}
	root, _, _ := strings.Cut(module, ".")
	for _, r := range hostileModules {
		if root == r {
			return fmt.Errorf("it refers to %.100q, which no weight file needs: it may be an attack, do not open it "+
				"with other programs", full)
		}
	}
	return nil
}

// call carries out REDUCE and NEWOBJ: a function or class below its arguments.
func (d *Decoder) call() error {
	a, err := d.pop()
	if err != nil {
		return err
	}
	f, err := d.pop()
	if err != nil {
		return err
	}
	args, ok := a.(Tuple)
	if !ok {
		return fmt.Errorf("arguments that are a %s", KindOf(a))
	}
	if _, ok := f.(Opaque); ok {
		d.push(f)
		return nil
	}
	g, ok := f.(Global)
	if !ok {
		return fmt.Errorf("a call of a %s", KindOf(f))
	}
	d.objects++
	v, err := d.make(string(g), args)
	if err != nil {
		return fmt.Errorf("%s: %w", g, err)
	}
	d.push(v)
	return nil
}

// make returns what a call makes: a value that the user of the decoder knows, or plain data, or an object without
// content.
func (d *Decoder) make(name string, args Tuple) (any, error) {
	if d.Call != nil {
		if v, known, err := d.Call(name, args); known || err != nil {
			return v, err
		}
	}
	switch name {
	case "collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict",
		"__builtin__.dict":
		return d.dict(args)
	case "argparse.Namespace":
		return &Namespace{&Dict{}}, nil
	case "copyreg._reconstructor", "copy_reg._reconstructor":
		if len(args) > 0 && args[0] == Global("argparse.Namespace") {
			return &Namespace{&Dict{}}, nil
		}
	case "builtins.set", "__builtin__.set":
		return Sequence(args)
	}
	return Opaque{name}, nil
}

// Sequence returns the one tuple or list that args have, for calls that make another kind of sequence of it.
func Sequence(args Tuple) (any, error) {
	if len(args) == 1 {
		switch v := args[0].(type) {
		case Tuple, *List:
			return v, nil
		}
	}
	return nil, errors.New("want one tuple or list")
}

// dict makes a dictionary of pairs.
func (d *Decoder) dict(args Tuple) (*Dict, error) {
	dict := &Dict{}
	if len(args) == 0 {
		return dict, nil
	}
	var pairs []any
	switch v := args[len(args)-1].(type) { // of defaultdict the first is the factory
	case *List:
		pairs = v.Items
	case Tuple:
		pairs = v
	case *Dict:
		return v, nil
	case Global:
		return dict, nil
	default:
		return nil, fmt.Errorf("a dict of a %s", KindOf(v))
	}
	// The list can be short in the file and be copied again and again.
	if d.objects += 2 * len(pairs); d.objects > maxObjects {
		return nil, errors.New("too many objects")
	}
	for _, p := range pairs {
		var pair []any
		switch p := p.(type) {
		case Tuple:
			pair = p
		case *List:
			pair = p.Items
		}
		if len(pair) != 2 {
			return nil, errors.New("an item that is no pair")
		}
		if err := dict.Set(pair[0], pair[1]); err != nil {
			return nil, err
		}
	}
	return dict, nil
}

// build gives an object its state. Only a Namespace, which holds the arguments of a training script,
// keeps it; the metadata of a state dict is not needed.
func (d *Decoder) build() error {
	state, err := d.pop()
	if err != nil {
		return err
	}
	top, err := d.top()
	if err != nil {
		return err
	}
	switch obj := top.(type) {
	case *Namespace:
		dict, ok := state.(*Dict)
		if !ok {
			return fmt.Errorf("a Namespace of a %s", KindOf(state))
		}
		obj.Dict = dict
		return nil
	case *Dict, Opaque:
		return nil
	case Object:
		if obj.HasState() {
			return nil
		}
	}
	return fmt.Errorf("state for a %s", KindOf(top))
}
