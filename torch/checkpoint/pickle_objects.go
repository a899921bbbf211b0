package checkpoint

import (
	"errors"
	"fmt"
	"strings"
)

func (u *unpickler) stackOp(op byte) error {
	switch op {
	case '1':
		_, err := u.popMark()
		return err
	case '2':
		v, err := u.pop()
		if err != nil {
			return err
		}
		u.push(v)
		u.push(v)
		return nil
	}
	_, err := u.pop()
	return err
}

func (u *unpickler) memoOp(op byte) error {
	key := uint64(len(u.memo)) // MEMOIZE
	if op != 0x94 {
		size := 1
		if op == 'j' || op == 'r' {
			size = 4
		}
		var err error
		if key, err = u.number(size); err != nil {
			return err
		}
	}
	if op == 'h' || op == 'j' {
		v, ok := u.memo[uint32(key)]
		if !ok {
			return fmt.Errorf("entry %d of the memo is empty", key)
		}
		u.push(v)
		return nil
	}
	v, err := u.pop()
	if err != nil {
		return err
	}
	u.push(v)
	u.memo[uint32(key)] = v
	return nil
}

// container carries out the operations on tuples, lists, dictionaries and sets.
func (u *unpickler) container(op byte) error {
	u.objects++ // the container itself
	switch op {
	case ')':
		u.push(pickleTuple{})
	case ']', 0x8f: // EMPTY_LIST, EMPTY_SET
		u.push(&pickleList{})
	case '}':
		u.push(&pickleDict{})
	case 't', 0x91: // TUPLE, FROZENSET
		items, err := u.popMark()
		if err != nil {
			return err
		}
		u.push(pickleTuple(items))
	case 0x85, 0x86, 0x87: // TUPLE1 to 3
		items := make(pickleTuple, op-0x84)
		for i := len(items) - 1; i >= 0; i-- {
			v, err := u.pop()
			if err != nil {
				return err
			}
			items[i] = v
		}
		u.objects += len(items)
		u.push(items)
	case 'a', 'e', 0x90: // APPEND, APPENDS, ADDITEMS
		items, err := u.items(op == 'a', 1)
		if err != nil {
			return err
		}
		top, err := u.top()
		if err != nil {
			return err
		}
		switch l := top.(type) {
		case *pickleList:
			l.items = append(l.items, items...)
		case pickleOpaque:
		default:
			return fmt.Errorf("items for a %s", kindOf(top))
		}
	case 's', 'u': // SETITEM, SETITEMS
		items, err := u.items(op == 's', 2)
		if err != nil {
			return err
		}
		if len(items)%2 != 0 {
			return errors.New("a key without a value")
		}
		top, err := u.top()
		if err != nil {
			return err
		}
		for i := 0; i < len(items); i += 2 {
			switch d := top.(type) {
			case *pickleDict:
				if err := d.set(items[i], items[i+1]); err != nil {
					return err
				}
			case pickleOpaque:
			default:
				return fmt.Errorf("items for a %s", kindOf(top))
			}
		}
	default:
		return fmt.Errorf("operation %#02x, which weight files do not have", op)
	}
	return nil
}

// items takes n values, or all above the mark.
func (u *unpickler) items(few bool, n int) ([]any, error) {
	if !few {
		return u.popMark()
	}
	items := make([]any, n)
	for i := n - 1; i >= 0; i-- {
		v, err := u.pop()
		if err != nil {
			return nil, err
		}
		items[i] = v
	}
	u.objects += n
	return items, nil
}

func (u *unpickler) top() (any, error) {
	v, err := u.pop()
	if err == nil {
		u.push(v)
	}
	return v, err
}

func (d *pickleDict) set(key, value any) error {
	switch key.(type) {
	case string, int64, bool:
		if d.index == nil {
			d.index = map[any]bool{}
		}
		if d.index[key] {
			return fmt.Errorf("duplicate key %.100q", fmt.Sprint(key))
		}
		d.index[key] = true
	}
	d.keys, d.values = append(d.keys, key), append(d.values, value)
	return nil
}

// get returns the value of a string key, nil if there is none.
func (d *pickleDict) get(key string) any {
	for i, k := range d.keys {
		if k == key {
			return d.values[i]
		}
	}
	return nil
}

func (u *unpickler) global(op byte) error {
	u.objects++
	var module, name string
	var err error
	if op == 'c' {
		if module, err = u.line(); err == nil {
			name, err = u.line()
		}
		if err != nil {
			return err
		}
	} else {
		n, err := u.pop()
		if err != nil {
			return err
		}
		m, err := u.pop()
		if err != nil {
			return err
		}
		var ok, also bool
		module, ok = m.(string)
		if name, also = n.(string); !ok || !also {
			return errors.New("a name that is no string")
		}
	}
	if err := refuse(module, name); err != nil {
		return err
	}
	u.push(pickleGlobal(module + "." + name))
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
func (u *unpickler) call() error {
	a, err := u.pop()
	if err != nil {
		return err
	}
	f, err := u.pop()
	if err != nil {
		return err
	}
	args, ok := a.(pickleTuple)
	if !ok {
		return fmt.Errorf("arguments that are a %s", kindOf(a))
	}
	if _, ok := f.(pickleOpaque); ok {
		u.push(f)
		return nil
	}
	g, ok := f.(pickleGlobal)
	if !ok {
		return fmt.Errorf("a call of a %s", kindOf(f))
	}
	u.objects++
	v, err := u.callGlobal(string(g), args)
	if err != nil {
		return fmt.Errorf("%s: %w", g, err)
	}
	u.push(v)
	return nil
}

// build gives an object its state. Only a Namespace, which holds the arguments of a training script,
// keeps it; the metadata of a state dict is not needed.
func (u *unpickler) build() error {
	state, err := u.pop()
	if err != nil {
		return err
	}
	top, err := u.top()
	if err != nil {
		return err
	}
	switch obj := top.(type) {
	case *pickleNamespace:
		d, ok := state.(*pickleDict)
		if !ok {
			return fmt.Errorf("a Namespace of a %s", kindOf(state))
		}
		obj.dict = d
	case *pickleDict, *pickleTensor, pickleOpaque:
	default:
		return fmt.Errorf("state for a %s", kindOf(top))
	}
	return nil
}
