package torch

// #include <stdlib.h>
// #include "dt.h"
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/ditrun/ditrun/torch/internal/native"
)

// A store is one connection to the store behind package dist.
type store struct{ h C.dt_store }

func newStore(host string, port int, serve bool, listenFD int, prefix string, timeoutMS int64) (_ native.Store,
	err error) {
	if err := Available(); err != nil {
		return nil, err
	}
	defer recoverError(&err)
	h, p := C.CString(host), C.CString(prefix)
	defer C.free(unsafe.Pointer(h))
	defer C.free(unsafe.Pointer(p))
	s := &store{}
	check("NewStore", C.dt_store_new(h, C.int32_t(port), cbool(serve), C.int32_t(listenFD), p, C.int64_t(timeoutMS),
		&s.h))
	return s, nil
}

func (s *store) Close() {
	C.dt_store_free(s.h)
	s.h = nil
}

func (s *store) handle(op string) C.dt_store {
	if s.h == nil {
		misuse(op, "the store is closed")
	}
	return s.h
}

func (s *store) Set(key string, value []byte) (err error) {
	defer recoverError(&err)
	k := C.CString(key)
	defer C.free(unsafe.Pointer(k))
	check("Store.Set", C.dt_store_set(s.handle("Store.Set"), k, unsafe.Pointer(unsafe.SliceData(value)),
		C.int64_t(len(value))))
	return nil
}

func (s *store) Get(key string) (value []byte, err error) {
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

func (s *store) Add(key string, delta int64) (sum int64, err error) {
	defer recoverError(&err)
	k := C.CString(key)
	defer C.free(unsafe.Pointer(k))
	var out C.int64_t
	check("Store.Add", C.dt_store_add(s.handle("Store.Add"), k, C.int64_t(delta), &out))
	return int64(out), nil
}

func (s *store) Has(keys ...string) (has bool, err error) {
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

func (s *store) Delete(key string) (was bool, err error) {
	defer recoverError(&err)
	k := C.CString(key)
	defer C.free(unsafe.Pointer(k))
	var out C.int32_t
	check("Store.Delete", C.dt_store_delete(s.handle("Store.Delete"), k, &out))
	return out != 0, nil
}

// A group is a process group behind package dist, which says what its methods do.
type group struct{ h C.dt_group }

func newGloo(st native.Store, rank, size int, interfaces, host string, timeoutMS int64) (_ native.Group[*Tensor],
	err error) {
	defer recoverError(&err)
	i, h := C.CString(interfaces), C.CString(host)
	defer C.free(unsafe.Pointer(i))
	defer C.free(unsafe.Pointer(h))
	s, g := st.(*store), &group{}
	check("NewGloo", C.dt_group_new_gloo(s.handle("NewGloo"), C.int32_t(rank), C.int32_t(size), i, h,
		C.int64_t(timeoutMS), &g.h))
	runtime.KeepAlive(s)
	return g, nil
}

func ncclVersion() (version string, err error) {
	if err := Available(); err != nil {
		return "", err
	}
	defer recoverError(&err)
	var v C.int32_t
	check("NCCLVersion", C.dt_nccl_version(&v))
	return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100), nil
}

func ncclID() (id []byte, err error) {
	if err := Available(); err != nil {
		return nil, err
	}
	defer recoverError(&err)
	id = make([]byte, C.DT_NCCL_ID)
	check("NCCLID", C.dt_nccl_id((*C.char)(unsafe.Pointer(&id[0]))))
	return id, nil
}

func newNCCL(id []byte, rank, size int, dev Device, timeoutMS int64) (_ native.Group[*Tensor], err error) {
	if err := Available(); err != nil {
		return nil, err
	}
	defer recoverError(&err)
	if len(id) != C.DT_NCCL_ID {
		misuse("NewNCCL", "an id of %d bytes, want %d", len(id), int(C.DT_NCCL_ID))
	}
	g := &group{}
	check("NewNCCL", C.dt_group_new_nccl(C.int32_t(rank), C.int32_t(size), C.dt_device(dev.index),
		(*C.char)(unsafe.Pointer(&id[0])), C.int64_t(timeoutMS), &g.h))
	return g, nil
}

func gpuAddress(dev Device) (address string, err error) {
	if err := Available(); err != nil {
		return "", err
	}
	defer recoverError(&err)
	var text [32]C.char
	check("GPUAddress", C.dt_gpu_address(C.dt_device(dev.index), &text[0], C.int32_t(len(text))))
	return C.GoString(&text[0]), nil
}

func (g *group) Close() {
	C.dt_group_free(g.h)
	g.h = nil
}

func (g *group) handle(op string) C.dt_group {
	if g.h == nil {
		misuse(op, "the process group is closed")
	}
	outsideCapture(op, "a capture cannot wait for other processes: do it between two replays")
	return g.h
}

func (g *group) AllReduce(t *Tensor, op int) (err error) {
	defer recoverError(&err)
	check("AllReduce", C.dt_group_all_reduce(g.handle("AllReduce"), t.handle("AllReduce"), C.int32_t(op)), t)
	runtime.KeepAlive(t)
	return nil
}

func (g *group) ReduceScatter(out, in *Tensor) (err error) {
	defer recoverError(&err)
	check("ReduceScatter", C.dt_group_reduce_scatter(g.handle("ReduceScatter"), out.handle("ReduceScatter"),
		in.handle("ReduceScatter")), out, in)
	runtime.KeepAlive(out)
	runtime.KeepAlive(in)
	return nil
}

func (g *group) AllGather(out, in *Tensor) (err error) {
	defer recoverError(&err)
	check("AllGather", C.dt_group_all_gather(g.handle("AllGather"), out.handle("AllGather"), in.handle("AllGather")),
		out, in)
	runtime.KeepAlive(out)
	runtime.KeepAlive(in)
	return nil
}

func (g *group) Broadcast(t *Tensor, root int) (err error) {
	defer recoverError(&err)
	check("Broadcast", C.dt_group_broadcast(g.handle("Broadcast"), t.handle("Broadcast"), C.int32_t(root)), t)
	runtime.KeepAlive(t)
	return nil
}

func (g *group) Barrier(timeoutMS int64) (err error) {
	defer recoverError(&err)
	check("Barrier", C.dt_group_barrier(g.handle("Barrier"), C.int64_t(timeoutMS)))
	return nil
}

func (g *group) AllReduceFloats(v []float64, op int) (err error) {
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

func copyTensor(dst, src *Tensor) (err error) {
	defer recoverError(&err)
	check("Copy", C.dt_copy_(0, dst.handle("Copy"), src.handle("Copy")), dst, src)
	if r := capturing(); r != nil {
		r.note("Copy", nil, dst, src)
	}
	runtime.KeepAlive(dst)
	runtime.KeepAlive(src)
	return nil
}

func (g *group) Abort() (err error) {
	defer recoverError(&err)
	check("Abort", C.dt_group_abort(g.handle("Abort")))
	return nil
}

func (g *group) Failed() bool { return C.dt_group_failed(g.handle("Failed")) != 0 }

func (g *group) Check() (err error) {
	defer recoverError(&err)
	check("Check", C.dt_group_check(g.handle("Check")))
	return nil
}
