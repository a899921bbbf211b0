package dist

import (
	"strings"
	"testing"
)

// env returns a getenv over "A=1 B=2".
func env(text string) func(string) string {
	m := map[string]string{}
	for _, f := range strings.Fields(text) {
		name, value, _ := strings.Cut(f, "=")
		m[name] = value
	}
	return func(name string) string { return m[name] }
}

func TestDetect(t *testing.T) {
	const (
		torchrun = "RANK=3 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=node7 MASTER_PORT=29400 " +
			"TORCHELASTIC_RUN_ID=abc TORCHELASTIC_RESTART_COUNT=2 TORCHELASTIC_USE_AGENT_STORE=True"
		slurm = "SLURM_PROCID=5 SLURM_NTASKS=8 SLURM_LOCALID=1 SLURM_JOB_ID=1234 SLURM_STEP_ID=0 " +
			"SLURM_JOB_NODELIST=gpu[07-09,12]"
		mpi = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1 " +
			"OMPI_COMM_WORLD_LOCAL_SIZE=4"
	)
	for _, c := range []struct {
		env  string
		want Env
	}{
		{"", Env{World: 1, LocalWorld: 1}},
		{"MASTER_ADDR=a MASTER_PORT=1", Env{World: 1, LocalWorld: 1}},
		{torchrun, Env{3, 8, 1, 2, "node7", 29400, "abc", 2, true, "torchrun"}},
		// PyTorchJob: one process a pod, no local rank.
		{"RANK=1 WORLD_SIZE=2 MASTER_ADDR=job-master-0 MASTER_PORT=23456",
			Env{1, 2, 0, 1, "job-master-0", 23456, "", 0, false, "torchrun"}},
		{"RANK=0 WORLD_SIZE=1", Env{0, 1, 0, 1, "", 29500, "", 0, false, "torchrun"}},
		{slurm, Env{5, 8, 1, 2, "gpu07", 14 - 3 + 10000 + 1223, "1234.0", 0, false, "slurm"}},
		{slurm + " MASTER_ADDR=other MASTER_PORT=99 SLURM_RESTART_COUNT=1",
			Env{5, 8, 1, 2, "other", 99, "1234.0", 1, false, "slurm"}},
		{slurm + " SLURM_STEP_NUM_TASKS=6 SLURM_STEP_NODELIST=gpu12 SLURM_STEP_NUM_NODES=1",
			Env{5, 6, 1, 6, "gpu12", 11234, "1234.0", 0, false, "slurm"}},
		// A batch script is one process, whatever the job may start.
		{"SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_LOCALID=0 SLURM_JOB_ID=1234", Env{World: 1, LocalWorld: 1}},
		{slurm + " SLURM_STEP_ID=4294967290", Env{World: 1, LocalWorld: 1}}, // the shell of salloc
		// torchrun started by srun.
		{slurm + " " + torchrun, Env{3, 8, 1, 2, "node7", 29400, "abc", 2, true, "torchrun"}},
		{mpi, Env{1, 4, 1, 4, "", 29500, "", 0, false, "mpirun"}},
	} {
		got, err := Detect(env(c.env))
		if err != nil || got != c.want {
			t.Errorf("%s\n got %+v, %v\nwant %+v", c.env, got, err, c.want)
		}
	}
	for _, c := range []struct{ env, want string }{
		{"RANK=1", "WORLD_SIZE is not set"},
		{"WORLD_SIZE=2", "RANK is not set"},
		{"RANK=two WORLD_SIZE=4", `RANK="two"`},
		{"RANK=-1 WORLD_SIZE=4", `RANK="-1"`},
		{"RANK=4 WORLD_SIZE=4", "RANK=4 of WORLD_SIZE=4"},
		{"RANK=0 WORLD_SIZE=0", `WORLD_SIZE="0"`},
		{"RANK=0 WORLD_SIZE=4 LOCAL_RANK=2 LOCAL_WORLD_SIZE=2", "local rank 2 of 2"},
		{"RANK=0 WORLD_SIZE=4 LOCAL_WORLD_SIZE=8", "local rank 0 of 8 in a run of 4"},
		{"RANK=0 WORLD_SIZE=4 MASTER_PORT=http", `MASTER_PORT="http"`},
		{"RANK=0 WORLD_SIZE=4 MASTER_PORT=70000", "MASTER_PORT=70000"},
		{"RANK=0 WORLD_SIZE=4 TORCHELASTIC_USE_AGENT_STORE=maybe", "TORCHELASTIC_USE_AGENT_STORE"},
		{"SLURM_PROCID=0 SLURM_STEP_ID=0", "SLURM_STEP_NUM_TASKS is not set"},
		{"SLURM_PROCID=9 SLURM_NTASKS=8 SLURM_LOCALID=1 SLURM_JOB_ID=1 SLURM_STEP_ID=0",
			"SLURM_PROCID=9 of SLURM_NTASKS=8"},
		{"SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_JOB_ID=1 SLURM_STEP_ID=0", "SLURM_LOCALID is not set"},
		{"SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_LOCALID=0 SLURM_JOB_ID=1 SLURM_STEP_ID=0 SLURM_JOB_NODELIST=gpu[",
			"SLURM_JOB_NODELIST"},
		{"OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE is not set"},
	} {
		if got, err := Detect(env(c.env)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v, want an error with %q", c.env, got, err, c.want)
		}
	}
}

func TestStoreAddress(t *testing.T) {
	e, err := Detect(env("OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1 " +
		"OMPI_COMM_WORLD_LOCAL_SIZE=2"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.store(); err == nil || !strings.Contains(err.Error(), "MASTER_ADDR is not set") {
		t.Errorf("two machines without an address: %v", err)
	}
	e.LocalWorld = 4
	if addr, err := e.store(); addr != "127.0.0.1:29500" || err != nil {
		t.Errorf("one machine: %q, %v", addr, err)
	}
	e.Addr = "fd00::1"
	if addr, err := e.store(); addr != "[fd00::1]:29500" || err != nil {
		t.Errorf("IPv6: %q, %v", addr, err)
	}
}

func TestFirstHost(t *testing.T) {
	for list, want := range map[string]string{
		"node1":                         "node1",
		"node1,node2":                   "node1",
		"node[1-4]":                     "node1",
		"node[007-009,012],login1":      "node007",
		"node[12]":                      "node12",
		"node[3,5-6]":                   "node3",
		"rack[2-3]n[01-04]":             "rack2n01",
		"a-b[1-2].cluster.example,c":    "a-b1.cluster.example",
		"10-0-0-1.ec2.internal,another": "10-0-0-1.ec2.internal",
	} {
		if got, err := firstHost(list); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", list, got, err, want)
		}
	}
	for _, list := range []string{"", ",", "node[", "node[1-2", "node[]", "node[x-y]", "node]1", "[-1]", "a b"} {
		if got, err := firstHost(list); err == nil {
			t.Errorf("%q: %q and no error", list, got)
		}
	}
}

func FuzzFirstHost(f *testing.F) {
	f.Add("node[07-09,12],login1")
	f.Fuzz(func(t *testing.T, list string) {
		if host, err := firstHost(list); err == nil && (host == "" || strings.ContainsAny(host, ",[]")) {
			t.Errorf("%q gives %q", list, host)
		}
	})
}

// Where all processes are on one machine, or the address is one that no other machine has, the store is on loopback.
func TestLoopback(t *testing.T) {
	for _, c := range []struct {
		env   Env
		addr  string
		want  string
		local bool
	}{
		{Env{World: 2, LocalWorld: 2}, "127.0.0.1:1", "127.0.0.1:1", true},
		{Env{World: 2, LocalWorld: 2}, "127.0.0.3:1", "127.0.0.3:1", true},
		{Env{World: 2, LocalWorld: 2}, "[::1]:1", "[::1]:1", true},
		{Env{World: 2, LocalWorld: 2}, "node7:1", "127.0.0.1:1", true},
		{Env{World: 2, LocalWorld: 2}, "[fd00::1]:1", "127.0.0.1:1", true},
		{Env{World: 2, LocalWorld: 1}, "localhost:1", "127.0.0.1:1", true},
		{Env{World: 2, LocalWorld: 1}, "127.0.0.1:1", "127.0.0.1:1", true},
		{Env{World: 2, LocalWorld: 1}, "node7:1", "node7:1", false},
		{Env{World: 2, LocalWorld: 1}, "10.0.0.7:1", "10.0.0.7:1", false},
		{Env{World: 2, LocalWorld: 2, AgentStore: true}, "node7:1", "node7:1", false},
	} {
		if addr, local := c.env.loopback(c.addr); addr != c.want || local != c.local {
			t.Errorf("%+v, %s: %s, %v, want %s, %v", c.env, c.addr, addr, local, c.want, c.local)
		}
	}
}
