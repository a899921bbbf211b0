package checkpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"sync/atomic"

	"github.com/ditrun/ditrun/internal/saves"
)

// A comparison takes the sum of a signed file in the background, while the file is read.
type comparison struct {
	signature *saves.Signature
	size      int64
	stop      atomic.Bool
	done      chan struct{} // closed when sum and err are set
	sum       string
	err       error
}

// compareWith begins to take the sum of a file of size bytes.
func compareWith(s *saves.Signature, r io.ReaderAt, size int64) *comparison {
	c := &comparison{signature: s, size: size, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		sum, buf := sha256.New(), make([]byte, 1<<20)
		for at := int64(0); at < size && !c.stop.Load(); {
			p := buf[:min(int64(len(buf)), size-at)]
			if c.err = readFull(r, p, at); c.err != nil {
				return
			}
			sum.Write(p)
			at += int64(len(p))
		}
		c.sum = hex.EncodeToString(sum.Sum(nil))
	}()
	return c
}

// verify waits for the sum and compares it.
func (c *comparison) verify() error {
	if err := c.signature.CheckSize(c.size); err != nil {
		return err
	}
	<-c.done
	if c.err != nil {
		return c.err
	}
	return c.signature.Check(c.sum)
}

// end stops taking the sum.
func (c *comparison) end() {
	c.stop.Store(true)
	<-c.done
}
