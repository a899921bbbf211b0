// Package native is what package torch lends to its sister packages and shows to nobody else: the fused AdamW behind
// package optim, and the process group and the store behind package dist. Their calls into C stand in package torch,
// since types of C cannot cross a package border. Before main begins, it leaves here the functions that make them:
//
//	var lent = native.Borrow[*torch.Scope, *torch.Tensor, torch.Device]()
//
//	store, err := lent.NewStore("127.0.0.1", 29500, true, -1, "run 7", 60_000)
//
// Package torch imports this one, which therefore cannot name its types: S is *torch.Scope, T is *torch.Tensor and D is
// torch.Device throughout. Errors of C come back as *torch.Error; a method without an error result panics with one, for
// torch.Run or Scope.Try to return.
package native

// Lent is what package torch lends.
type Lent[S, T, D any] struct {
	// NewAdamW makes the optimizer of params (Float32, on one device) and moves their storage into one flat buffer.
	NewAdamW func(params []T, cfg AdamWConfig[T]) (AdamW[S, T], error)
	// HostBytes returns the memory of a contiguous tensor on the CPU, which is not to be used after the tensor is
	// closed. It panics where the tensor is not contiguous or not on the CPU.
	HostBytes func(t T) []byte

	// NewStore connects to the store at host:port, or serves one there; names get prefix in front. It waits up to
	// the time-out for a store to answer. One that is served is open to every network, unless listenFD, else -1, is
	// a socket that listens on the port: the store takes it over.
	NewStore func(host string, port int, serve bool, listenFD int, prefix string, timeoutMS int64) (Store, error)
	// NewGloo makes the group for CPU tensors. Gloo listens on the network interfaces named, separated by commas,
	// or else on the address of host.
	NewGloo func(s Store, rank, size int, interfaces, host string, timeoutMS int64) (Group[T], error)
	// NewNCCL makes the group for tensors on dev, which no other rank uses, from what NCCLID gave on one rank. It waits
	// for the other ranks without limit; a collective that is not done within the time-out ends the group.
	NewNCCL func(id []byte, rank, size int, dev D, timeoutMS int64) (Group[T], error)
	// NCCLID begins a group: it returns what NewNCCL takes on all ranks.
	NCCLID func() ([]byte, error)
	// NCCLVersion returns the version of the NCCL found, such as "2.28.9", or why there is none to use.
	NCCLVersion func() (string, error)
	// GPUAddress returns where the GPU sits on the bus of its machine, such as "0000:17:00.0".
	GPUAddress func(dev D) (string, error)
	// Copy overwrites dst with src, of the same shape.
	Copy func(dst, src T) error
}

var lent any // a Lent

// Lend is called once, by package torch.
func Lend[S, T, D any](l Lent[S, T, D]) { lent = l }

// Borrow returns what package torch lends, to the packages that import it.
func Borrow[S, T, D any]() Lent[S, T, D] { return lent.(Lent[S, T, D]) }

// An AdamW is the fused optimizer: package optim says what its methods do, and adds the names and the files.
type AdamW[S, T any] interface {
	// Step returns the norm of the gradients and whether the step was skipped. In a group it panics where a trained
	// parameter has no gradient.
	Step(s S, opt Step[T]) (norm, skipped T)
	// Watch copies the trained weights for Change, which returns the norm of what became of them since. In a group all
	// ranks call both.
	Watch()
	Change(s S) T
	// LastBackward makes the backward pass that follows send gradients to the other ranks.
	LastBackward()
	// Copy returns the trained parameter at a position as a BFloat16 tensor that steps keep equal to it, and whose
	// gradient is one of the parameter. A group has none.
	Copy(s S, position int) T
	// Renew makes the copies equal to the parameters again, which something else than a step has changed.
	Renew()
	// ExposeGrad lets Scope.Grad see the gradients in a group, and of copies, until ZeroGrad.
	ExposeGrad()
	// ZeroGrad forgets the gradients.
	ZeroGrad()
	// Buffer returns a buffer itself, not a copy of it.
	Buffer(s S, which Buffer) T
	// Averages returns the averages of all parameters as the weights lie: gathered from the ranks where they hold
	// shares, else the buffer itself.
	Averages(s S) T
	// Snapshot copies the step count, this rank's moments and, on the first rank, the weights and the averages of all
	// parameters to host memory. The next snapshot overwrites them.
	Snapshot(s S) []T
	// Close frees the state.
	Close()
}

// AdamWConfig holds AdamW's constants and where the parameters lie in the flat buffer, in elements: those that require
// gradients in the buckets, one behind the other, the others behind them.
type AdamWConfig[T any] struct {
	Beta1, Beta2, Eps, WeightDecay float64

	Names   []string // of the parameters, for errors
	Offsets []int    // of each parameter
	Buckets []int    // sizes
	Total   int
	Group   Group[T] // nil for a process alone; it must stay open as long as the optimizer is used
	Plain   bool     // each rank holds and updates everything
}

// Step says how a step is made; optim.StepOptions has the same fields.
type Step[T any] struct {
	LR       T
	MaxNorm  float64
	EMADecay T
	Skip     T
}

// A Buffer is one of the optimizer's buffers. They hold this rank's shares of the buckets; behind them, averages of the
// other parameters.
type Buffer int32

// The numbers are those of dt.h.
const (
	EMA Buffer = iota
	ExpAvg
	ExpAvgSq
	StepCount
	Weights // of a process alone, those that are not trained too
)

// A Store is one connection to a store of values. Package dist makes one call at a time.
type Store interface {
	// Set stores value under key.
	Set(key string, value []byte) error
	// Get waits for key, up to the store's time-out, and returns its value.
	Get(key string) ([]byte, error)
	// Add adds delta to the number under key, 0 if there is none, and returns the sum.
	Add(key string, delta int64) (int64, error)
	// Has reports whether all keys have values.
	Has(keys ...string) (bool, error)
	// Delete removes key and reports whether it was there.
	Delete(key string) (bool, error)
	// Close ends the connection; the store itself too where this process serves it.
	Close()
}

// A Group is a process group of Gloo or NCCL. Its collectives wait for the other ranks and must not be called by two
// goroutines at once. dist.Group says what they do.
type Group[T any] interface {
	AllReduce(t T, op int) error
	AllReduceFloats(v []float64, op int) error
	ReduceScatter(out, in T) error
	AllGather(out, in T) error
	Broadcast(t T, root int) error
	Barrier(timeoutMS int64) error
	// Abort ends the collectives under way where the backend can, and refuses further ones.
	Abort() error
	// Failed reports whether a collective has failed, by whatever operation it was started.
	Failed() bool
	// Check returns why a collective failed that was waited for before, as those on a GPU may; what was computed
	// with its result is worth nothing then.
	Check() error
	// Close ends the group.
	Close()
}

// Reductions of the AllReduce methods. The numbers are those of dt.h.
const (
	Sum = iota
	Min
	Max
)
