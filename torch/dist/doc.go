// Package dist joins the processes of one run: which of how many this is, the group whose collectives sum and share
// tensors, a small store of values, and a watchdog that says which process is at fault when one falls behind.
//
//	env, err := dist.Detect(os.Getenv)
//	g, err := dist.Open(ctx, env, "gloo", 10*time.Minute)
//	defer g.Close()
//	for step := range steps {
//		g.AtStep(step)
//		...
//		if err := g.AllReduceFloats(sums); err != nil { // the same calls in the same order on every rank
//			return err
//		}
//	}
//
// A process alone has a group too, in which every collective is the identity. Collectives are libtorch's (c10d): Gloo
// for tensors on the CPU, NCCL for those on GPUs.
package dist
