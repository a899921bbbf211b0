// Package dist joins the processes of one run. It says which of how many this one is; its groups sum and share tensors
// and keep a small store of values; and a watchdog names the process at fault when one ends or falls behind.
//
//	env, err := dist.Detect(os.Getenv)
//	g, err := dist.Open(ctx, env, "gloo", 10*time.Minute, nil)
//	defer g.Close()
//	for step := range steps {
//		g.AtStep(step)
//		...
//		if err := g.AllReduceFloats(sums, dist.Sum); err != nil { // the same calls in the same order on every rank
//			return err
//		}
//	}
//
// A process alone has a group too, nil or one of World 1, in which every collective is the identity; nothing is opened
// for it. Collectives are libtorch's: Gloo for tensors on the CPU, NCCL for those on a GPU (see [Open]).
//
// A collective fails as soon as a rank ends, or when a rank does not come to it within the group's time-out. Its error
// says which rank is at fault and at which step it was:
//
//	rank 0 of 4: all-reduce: Connection closed by peer [127.0.0.1]:4242:
//	rank 1 has not been heard of for 3 s: its last step was 1204
//
// Pass an error from elsewhere through [Group.Fail], so that the other ranks learn of it.
package dist
