package stream

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// task is one batch to make, or a part of one, and the indices of what goes into it.
type task struct {
	at    Position
	items []int
}

// job is a task under way; done is closed when buf and err are final.
type job[T any] struct {
	task
	buf  T
	err  error
	done chan struct{}
}

// ready is a finished batch and the time the consumer waited for it.
type ready[T any] struct {
	batch T
	wait  time.Duration
}

// numWorkers is n, or a default that leaves processors to the model where there are many.
func numWorkers(n int) int {
	if n > 0 {
		return n
	}
	return min(runtime.GOMAXPROCS(0), 4)
}

// prefetch makes the batches of tasks on a number of workers and yields them in the order of the tasks, whatever the
// timing. newWorker is called once for each, with a context that ends with the iteration, and returns what fills a
// buffer. There are as many buffers as workers and two more, of which the consumer holds one until it asks for the
// next. The goroutines end, and are waited for, before the iteration does: after the last task, at the first error,
// when the consumer stops or ctx is cancelled. A panic in a worker becomes an error.
func prefetch[T any](ctx context.Context, workers int, tasks iter.Seq[task], newBuffer func() T,
	newWorker func(context.Context) func(task, T) error) iter.Seq2[ready[T], error] {
	return func(yield func(ready[T], error) bool) {
		inner, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()

		buffers := workers + 2
		p := pipeline[T]{free: make(chan T, buffers), queue: make(chan *job[T], buffers), work: make(chan *job[T])}
		for range buffers {
			p.free <- newBuffer()
		}
		wg.Go(func() { p.feed(inner, tasks) })
		for range workers {
			wg.Go(func() { p.make(newWorker(inner)) })
		}
		for {
			start := time.Now()
			j, err := p.next(ctx)
			if err != nil {
				yield(ready[T]{}, err)
				return
			}
			if j == nil || !yield(ready[T]{j.buf, time.Since(start)}, nil) {
				return
			}
			p.free <- j.buf
		}
	}
}

// pipeline is what the goroutines of prefetch pass to each other.
type pipeline[T any] struct {
	free  chan T       // buffers
	queue chan *job[T] // in the order of the tasks; it has a place for each buffer, so sending never blocks
	work  chan *job[T] // for the workers

	taskErr error // final when queue is closed
}

// feed queues a job for each task as buffers come free.
func (p *pipeline[T]) feed(ctx context.Context, tasks iter.Seq[task]) {
	defer close(p.work)
	defer close(p.queue)
	p.taskErr = recovered(func() error {
		for t := range tasks {
			j := &job[T]{task: t, done: make(chan struct{})}
			select {
			case j.buf = <-p.free:
			case <-ctx.Done():
				return nil
			}
			p.queue <- j
			select {
			case p.work <- j:
			case <-ctx.Done():
				return nil
			}
		}
		return nil
	})
}

// make does jobs until there are no more.
func (p *pipeline[T]) make(fill func(task, T) error) {
	for j := range p.work {
		j.err = recovered(func() error { return fill(j.task, j.buf) })
		close(j.done)
	}
}

// next waits for the job whose turn it is, nil after the last.
func (p *pipeline[T]) next(ctx context.Context) (*job[T], error) {
	var j *job[T]
	select {
	case j = <-p.queue:
	case <-ctx.Done():
	}
	if j != nil {
		select {
		case <-j.done:
		case <-ctx.Done():
		}
	}
	switch err := ctx.Err(); {
	case err != nil:
		return nil, err
	case j == nil: // the queue is closed and empty
		return nil, p.taskErr
	}
	return j, j.err
}

// recovered calls f and returns its panic as an error.
func recovered(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("data worker: panic: %v\n%s", r, debug.Stack())
		}
	}()
	return f()
}

// epochTasks yields the tasks of steps [start, end) of shuffled epochs over n items; end 0 means for ever. The last
// items of an epoch that do not fill a batch are left out; they are others in each epoch.
func epochTasks(n, batch int, seed uint64, start, end int, share Share,
	permute func(seed uint32, epoch, n int) []int) iter.Seq[task] {
	return func(yield func(task) bool) {
		perEpoch := n / batch
		var order []int
		of := -1 // the epoch that order belongs to
		size := batch / share.pieces()
		for step := start; end == 0 || step < end; step++ {
			at := step + share.Offset
			epoch, i := at/perEpoch, at%perEpoch
			if epoch != of {
				order, of = permute(uint32(seed), epoch, n), epoch
			}
			for micro := range max(share.MicroBatches, 1) {
				slot := (micro*max(share.World, 1) + share.Rank) * size
				from := i*batch + slot
				if !yield(task{Position{step, epoch, at, micro, slot}, order[from : from+size]}) {
					return
				}
			}
		}
	}
}

// lastStep combines the two limits of a run, 0 meaning none.
func lastStep(maxSteps, epochs, perEpoch int) int {
	end := epochs * perEpoch
	if end == 0 || maxSteps != 0 && maxSteps < end {
		end = maxSteps
	}
	return end
}
