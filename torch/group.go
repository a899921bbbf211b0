package torch

// #include <stdlib.h>
// #include "shim/dt.h"
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"
)

// A Store is one connection to the store behind package dist. Use that package.
type Store struct{ h C.dt_store }

// NewStore connects to the store at host:port, or serves one there; names get prefix in front. It
// waits up to the time-out for a store to answer. One that is served is open to every network, unless
// listenFD, else -1, is a socket that listens on the port: the store takes it over.
func NewStore(host string, port int, serve bool, listenFD int, prefix string, timeoutMS int64) (s *Store, err error) {
	if err := Available(); err != nil {
		return nil, err
	}
	defer recoverError(&err)
	h, p := C.CString(host), C.CString(prefix)
	defer C.free(unsafe.Pointer(h))
	defer C.free(unsafe.Pointer(p))
	s = &Store{}
	check("NewStore", C.dt_store_new(h, C.int32_t(port), cbool(serve), C.int32_t(listenFD), p, C.int64_t(timeoutMS),
		&s.h))
	return s, nil
}

// Close ends the connection; the store itself too where this process serves it.
func (s *Store) Close() {
	C.dt_store_free(s.h)
	s.h = nil
}

func (s *Store) handle(op string) C.dt_store {
	if s.h == nil {
		misuse(op, "the store is closed")
	}
	return s.h
}

// Set stores value under key.
func (s *Store) Set(key string, value []byte) (err error) {
	defer recoverError(&err)
	k := C.CString(key)
	defer C.free(unsafe.Pointer(k))
	check("Store.Set", C.dt_store_set(s.handle("Store.Set"), k, unsafe.Pointer(unsafe.SliceData(value)),
		C.int64_t(len(value))))
	return nil
}

// Get returns the value of key, for which it waits.
func (s *Store) Get(key string) (value []byte, err error) {
	defer recoverError(&err)
	k := C.CString(key)
	defer C.free(unsafe.Pointer(k))
	var p unsafe.Pointer
	var n C.int64_t
	check("Store.Get", C.dt_store_get(s.handle("Store.Get"), k, &p, &n))
	value = append([]byte{}, unsafe.Slice((*byte)(p), int(n))...)
	C.free(p)
	return value, nil
}

// Add adds delta to the number under key, 0 if there is none, and returns the sum.
func (s *Store) Add(key string, delta int64) (sum int64, err error) {
	defer recoverError(&err)
	k := C.CString(key)
	defer C.free(unsafe.Pointer(k))
	var out C.int64_t
	check("Store.Add", C.dt_store_add(s.handle("Store.Add"), k, C.int64_t(delta), &out))
	return int64(out), nil
}

// Has reports whether all keys have values.
func (s *Store) Has(keys ...string) (has bool, err error) {
	defer recoverError(&err)
	ks := make([]*C.char, len(keys))
	for i, key := range keys {
		ks[i] = C.CString(key)
		defer C.free(unsafe.Pointer(ks[i]))
	}
	var out C.int32_t
	check("Store.Has", C.dt_store_check(s.handle("Store.Has"), unsafe.SliceData(ks), C.int32_t(len(ks)), &out))
	return out != 0, nil
}

// Delete removes key and reports whether it was there.
func (s *Store) Delete(key string) (was bool, err error) {
	defer recoverError(&err)
	k := C.CString(key)
	defer C.free(unsafe.Pointer(k))
	var out C.int32_t
	check("Store.Delete", C.dt_store_delete(s.handle("Store.Delete"), k, &out))
	return out != 0, nil
}

// A Group is the process group behind package dist. Use that package. The collectives wait for the
// other ranks and must not be called by two goroutines at once. Those of a nil group are the identity.
type Group struct {
	h          C.dt_group
	Rank, Size int
}

// NewGloo makes the group for CPU tensors. Gloo listens on the network interfaces named, separated
// by commas, or else on the address of host.
func NewGloo(s *Store, rank, size int, interfaces, host string, timeoutMS int64) (g *Group, err error) {
	defer recoverError(&err)
	i, h := C.CString(interfaces), C.CString(host)
	defer C.free(unsafe.Pointer(i))
	defer C.free(unsafe.Pointer(h))
	g = &Group{Rank: rank, Size: size}
	check("NewGloo", C.dt_group_new_gloo(s.handle("NewGloo"), C.int32_t(rank), C.int32_t(size), i, h,
		C.int64_t(timeoutMS), &g.h))
	runtime.KeepAlive(s)
	return g, nil
}

// NCCLVersion returns the version of the NCCL found, such as "2.28.9", or why there is none to use.
func NCCLVersion() (version string, err error) {
	if err := Available(); err != nil {
		return "", err
	}
	defer recoverError(&err)
	var v C.int32_t
	check("NCCLVersion", C.dt_nccl_version(&v))
	return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100), nil
}

// NCCLID begins a group: it returns what [NewNCCL] takes on all ranks.
func NCCLID() (id []byte, err error) {
	if err := Available(); err != nil {
		return nil, err
	}
	defer recoverError(&err)
	id = make([]byte, C.DT_NCCL_ID)
	check("NCCLID", C.dt_nccl_id((*C.char)(unsafe.Pointer(&id[0]))))
	return id, nil
}

// NewNCCL makes the group for tensors on dev, which no other rank uses. It waits for the other ranks without limit; a
// collective that is not done within the time-out ends the group.
func NewNCCL(id []byte, rank, size int, dev Device, timeoutMS int64) (g *Group, err error) {
	if err := Available(); err != nil {
		return nil, err
	}
	defer recoverError(&err)
	if len(id) != C.DT_NCCL_ID {
		misuse("NewNCCL", "an id of %d bytes, want %d", len(id), int(C.DT_NCCL_ID))
	}
	g = &Group{Rank: rank, Size: size}
	check("NewNCCL", C.dt_group_new_nccl(C.int32_t(rank), C.int32_t(size), C.dt_device(dev.index),
		(*C.char)(unsafe.Pointer(&id[0])), C.int64_t(timeoutMS), &g.h))
	return g, nil
}

// GPUAddress says where the GPU sits on the bus of its machine, such as "0000:17:00.0".
func GPUAddress(dev Device) (address string, err error) {
	if err := Available(); err != nil {
		return "", err
	}
	defer recoverError(&err)
	var text [32]C.char
	check("GPUAddress", C.dt_gpu_address(C.dt_device(dev.index), &text[0], C.int32_t(len(text))))
	return C.GoString(&text[0]), nil
}

// Close ends the group.
func (g *Group) Close() {
	C.dt_group_free(g.h)
	g.h = nil
}

// Reductions of [Group.AllReduce].
const (
	Sum = C.DT_SUM
	Min = C.DT_MIN
	Max = C.DT_MAX
)

func (g *Group) handle(op string) C.dt_group {
	if g.h == nil {
		misuse(op, "the process group is closed")
	}
	return g.h
}

// AllReduce is described at dist.Group.AllReduce.
func (g *Group) AllReduce(t *Tensor, op int) (err error) {
	if g == nil {
		return nil
	}
	defer recoverError(&err)
	check("AllReduce", C.dt_group_all_reduce(g.handle("AllReduce"), t.handle("AllReduce"), C.int32_t(op)), t)
	runtime.KeepAlive(t)
	return nil
}

// ReduceScatter is described at dist.Group.ReduceScatter.
func (g *Group) ReduceScatter(out, in *Tensor) (err error) {
	defer recoverError(&err)
	if g == nil {
		copyTensor("ReduceScatter", out, in)
		return nil
	}
	check("ReduceScatter", C.dt_group_reduce_scatter(g.handle("ReduceScatter"), out.handle("ReduceScatter"),
		in.handle("ReduceScatter")), out, in)
	runtime.KeepAlive(out)
	runtime.KeepAlive(in)
	return nil
}

// AllGather is described at dist.Group.AllGather.
func (g *Group) AllGather(out, in *Tensor) (err error) {
	defer recoverError(&err)
	if g == nil {
		copyTensor("AllGather", out, in)
		return nil
	}
	check("AllGather", C.dt_group_all_gather(g.handle("AllGather"), out.handle("AllGather"), in.handle("AllGather")),
		out, in)
	runtime.KeepAlive(out)
	runtime.KeepAlive(in)
	return nil
}

// Broadcast is described at dist.Group.Broadcast.
func (g *Group) Broadcast(t *Tensor, root int) (err error) {
	if g == nil {
		return nil
	}
	defer recoverError(&err)
	check("Broadcast", C.dt_group_broadcast(g.handle("Broadcast"), t.handle("Broadcast"), C.int32_t(root)), t)
	runtime.KeepAlive(t)
	return nil
}

// Barrier is described at dist.Group.Barrier.
func (g *Group) Barrier(timeoutMS int64) (err error) {
	if g == nil {
		return nil
	}
	defer recoverError(&err)
	check("Barrier", C.dt_group_barrier(g.handle("Barrier"), C.int64_t(timeoutMS)))
	return nil
}

// AllReduceFloats is described at dist.Group.AllReduceFloats.
func (g *Group) AllReduceFloats(v []float64, op int) (err error) {
	if g == nil {
		return nil
	}
	defer recoverError(&err)
	p, n := unsafe.Pointer(unsafe.SliceData(v)), C.int64_t(8*len(v))
	dims := C.int64_t(len(v))
	var out C.dt_out
	check("AllReduceFloats", C.dt_from_host(p, n, C.DT_FLOAT64, -1, &dims, 1, &out))
	defer C.dt_free_many(&out.t, 1)
	check("AllReduceFloats", C.dt_group_all_reduce(g.handle("AllReduceFloats"), out.t, C.int32_t(op)))
	check("AllReduceFloats", C.dt_to_host(out.t, p, n))
	return nil
}

func copyTensor(op string, dst, src *Tensor) {
	check(op, C.dt_copy_(0, dst.handle(op), src.handle(op)), dst, src)
	runtime.KeepAlive(dst)
	runtime.KeepAlive(src)
}

// Abort ends the collectives under way where the backend can, and refuses further ones.
func (g *Group) Abort() (err error) {
	defer recoverError(&err)
	check("Abort", C.dt_group_abort(g.handle("Abort")))
	return nil
}

// Failed reports whether a collective has failed, by whatever operation it was started.
func (g *Group) Failed() bool { return C.dt_group_failed(g.handle("Failed")) != 0 }

// Check returns why a collective failed that was waited for before, as those on a GPU may; what was computed with its
// result is worth nothing then.
func (g *Group) Check() (err error) {
	if g == nil {
		return nil
	}
	defer recoverError(&err)
	check("Check", C.dt_group_check(g.handle("Check")))
	return nil
}
