package dist

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/ditrun/ditrun/internal/names"
)

// An Env says which of several processes, started together, this one is.
type Env struct {
	Rank, World int // of all processes; World is 1 for a process started alone
	// of the processes on this machine; where the launcher does not say how many these are, LocalWorld is the least
	// that it can be
	LocalRank, LocalWorld int
	Addr                  string // where rank 0, or the agent, keeps the store; "" where nothing says so
	Port                  int
	RunID                 string // the same in all processes, another in the next run
	Restart               int    // how often the launcher has started the run again
	AgentStore            bool   // an agent keeps the store, not rank 0
	Launcher              string // "torchrun", "slurm", "mpirun", "" for a process started alone
}

// OneHost reports whether all processes run on this machine.
func (e Env) OneHost() bool { return e.LocalWorld == e.World }

// A vars reads numbers from the environment and keeps the first error.
type vars struct {
	getenv func(string) string
	err    error
}

func (v *vars) fail(format string, args ...any) {
	if v.err == nil {
		v.err = fmt.Errorf("environment: "+format, args...)
	}
}

// number reads a variable whose value is at least low. One that is not set has the value unset; where that is negative,
// it must be set.
func (v *vars) number(name string, low, unset int) int {
	text := v.getenv(name)
	if text == "" {
		if unset < 0 {
			v.fail("%s is not set", name)
		}
		return unset
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > 1<<30 {
		v.fail("%s=%q: want a number of at least %d", name, text, low)
		return low
	}
	return n
}

// ranks reads a rank and the number of ranks, which may have several names: the first that is set counts.
func (v *vars) ranks(rank string, sizes ...string) (r, n int) {
	size := sizes[0]
	for _, name := range sizes {
		if v.getenv(name) != "" {
			size = name
			break
		}
	}
	r, n = v.number(rank, 0, -1), v.number(size, 1, -1)
	if r >= n {
		v.fail("%s=%d of %s=%d: ranks count from 0", rank, r, size, n)
	}
	return r, n
}

// Detect reads what the launcher says in the environment: torchrun and its like (RANK, WORLD_SIZE, LOCAL_RANK,
// LOCAL_WORLD_SIZE), else srun (SLURM_PROCID and others, inside a job step), else mpirun of Open MPI
// (OMPI_COMM_WORLD_RANK and others). Without any of them this is a process alone. MASTER_ADDR and MASTER_PORT win over
// the address and the port that follow from the others. An error names the variable at fault.
func Detect(getenv func(string) string) (Env, error) {
	v := &vars{getenv: getenv}
	var e Env
	switch {
	case getenv("RANK") != "" || getenv("WORLD_SIZE") != "":
		e = v.torchrun()
	case getenv("SLURM_PROCID") != "" && inStep(getenv(v.first("SLURM_STEP_ID", "SLURM_STEPID"))):
		e = v.slurm()
	case getenv("OMPI_COMM_WORLD_RANK") != "" || getenv("OMPI_COMM_WORLD_SIZE") != "":
		e = v.mpirun()
	default:
		return Env{World: 1, LocalWorld: 1}, nil
	}
	if e.LocalRank >= e.LocalWorld || e.LocalWorld > e.World {
		v.fail("local rank %d of %d in a run of %s (%s): want the local rank below the local number, and that at "+
			"most the total", e.LocalRank, e.LocalWorld, names.Plural(e.World, "process"), e.Launcher)
	}
	if addr := getenv("MASTER_ADDR"); addr != "" {
		e.Addr = addr
	}
	e.Port = v.number("MASTER_PORT", 1, e.Port)
	if e.Port > 65535 {
		v.fail("MASTER_PORT=%d: want a port of at most 65535", e.Port)
	}
	if v.err != nil {
		return Env{}, v.err
	}
	return e, nil
}

// defaultPort is torchrun's.
const defaultPort = 29500

func (v *vars) torchrun() Env {
	e := Env{Launcher: "torchrun", Port: defaultPort}
	e.Rank, e.World = v.ranks("RANK", "WORLD_SIZE")
	// PyTorchJob starts one process in each pod and sets neither of these.
	e.LocalRank = v.number("LOCAL_RANK", 0, 0)
	e.LocalWorld = v.number("LOCAL_WORLD_SIZE", 1, e.LocalRank+1)
	e.RunID, e.Restart = v.getenv("TORCHELASTIC_RUN_ID"), v.number("TORCHELASTIC_RESTART_COUNT", 0, 0)
	switch use := v.getenv("TORCHELASTIC_USE_AGENT_STORE"); strings.ToLower(use) {
	case "true", "1":
		e.AgentStore = true
	case "", "false", "0":
	default:
		v.fail("TORCHELASTIC_USE_AGENT_STORE=%q: want True or False", use)
	}
	return e
}

// inStep reports whether id is the number of a job step that srun started. A batch script or the shell of salloc has
// the job's variables too, but runs once for the whole job: it has no step, or one of Slurm's special steps, whose
// numbers lie around SLURM_BATCH_SCRIPT (2^32 - 5).
func inStep(id string) bool {
	n, err := strconv.ParseUint(id, 10, 64)
	return id != "" && (err != nil || n < 1<<32-16)
}

func (v *vars) slurm() Env {
	e := Env{Launcher: "slurm"}
	e.Rank, e.World = v.ranks("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
	e.LocalRank = v.number("SLURM_LOCALID", 0, -1)
	nodes := v.first("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
	e.LocalWorld = e.LocalRank + 1
	if n := v.getenv("SLURM_STEP_NUM_NODES"); n == "1" || n == "" && v.getenv("SLURM_NNODES") == "1" {
		e.LocalWorld = e.World
	}
	if list := v.getenv(nodes); list != "" {
		host, err := firstHost(list)
		if err != nil {
			v.fail("%s=%q: %v", nodes, list, err)
		}
		e.Addr = host
	}
	job := v.number(v.first("SLURM_JOB_ID", "SLURM_JOBID"), 0, -1)
	step := v.number(v.first("SLURM_STEP_ID", "SLURM_STEPID"), 0, -1)
	e.RunID, e.Restart = fmt.Sprintf("%d.%d", job, step), v.number("SLURM_RESTART_COUNT", 0, 0)
	// Jobs and steps that share a node must not meet; ports from 32768 on are handed out by the system.
	e.Port = 10000 + (job+7919*step)%20000
	return e
}

func (v *vars) mpirun() Env {
	e := Env{Launcher: "mpirun", Port: defaultPort, RunID: v.getenv("PMIX_NAMESPACE")}
	e.Rank, e.World = v.ranks("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")
	e.LocalRank, e.LocalWorld = v.ranks("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")
	return e
}

// first returns the first of the variables that is set, else the first.
func (v *vars) first(names ...string) string {
	for _, name := range names {
		if v.getenv(name) != "" {
			return name
		}
	}
	return names[0]
}

// firstHost returns the first host of a Slurm node list, such as node[07-09,12],login1 or rack[1-2]n[01-04].
func firstHost(list string) (string, error) {
	var b strings.Builder
	left := list
	for left != "" && left[0] != ',' {
		if left[0] != '[' {
			n := strings.IndexAny(left, "[,")
			if n < 0 {
				n = len(left)
			}
			b.WriteString(left[:n])
			left = left[n:]
			continue
		}
		inside, after, closed := strings.Cut(left[1:], "]")
		if !closed {
			return "", fmt.Errorf("a bracket is not closed")
		}
		number := inside
		if n := strings.IndexAny(inside, "-,"); n >= 0 {
			number = inside[:n]
		}
		if _, err := strconv.ParseUint(number, 10, 64); err != nil {
			return "", fmt.Errorf("%q in brackets is not a list of numbers", inside)
		}
		b.WriteString(number)
		left = after
	}
	host := b.String()
	if host == "" || strings.ContainsAny(host, " ]/:") {
		return "", fmt.Errorf("%q is not the name of a host", host)
	}
	return host, nil
}

// loopback returns the address of the store, and whether only this machine can reach it there, which is enough where
// all processes run on it.
func (e Env) loopback(addr string) (string, bool) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || e.AgentStore {
		return addr, false
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return addr, true
	}
	if host == "localhost" || e.OneHost() {
		return net.JoinHostPort("127.0.0.1", port), true
	}
	return addr, false
}

// store returns the address of the store.
func (e Env) store() (string, error) {
	addr := e.Addr
	if addr == "" && e.OneHost() {
		addr = "127.0.0.1"
	}
	if addr == "" {
		return "", fmt.Errorf("environment: MASTER_ADDR is not set: %d processes on several machines need the name "+
			"of rank 0's", e.World)
	}
	return net.JoinHostPort(addr, strconv.Itoa(e.Port)), nil
}
