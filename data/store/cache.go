package store

import (
	"container/list"
	"io"
	"sync"
)

// Cached returns the set with its files read in blocks of blockSize bytes, of which those used last are kept, at most
// maxBytes in all. Several readers of one block wait for one read of it. Reads of a block or more go past the cache.
func (s *Set) Cached(blockSize int, maxBytes int64) *Set {
	t := *s
	c := &blockCache{size: blockSize, max: max(int(maxBytes/int64(blockSize)), 1), blocks: map[blockKey]*block{}}
	t.open = func(o *Object) (File, error) {
		f, err := s.open(o)
		if err != nil {
			return nil, err
		}
		return &cachedFile{File: f, name: o.Name, size: o.Size, cache: c}, nil
	}
	return &t
}

type blockKey struct {
	name  string
	index int64
}

// block is a stretch of a file; b and err are final when ready is closed.
type block struct {
	key   blockKey
	ready chan struct{}
	b     []byte
	err   error
	users int
	at    *list.Element // in the order of use
}

type blockCache struct {
	size, max int

	mu     sync.Mutex
	blocks map[blockKey]*block
	used   list.List // of *block, the latest in front
}

type cachedFile struct {
	File
	name  string
	size  int64
	cache *blockCache
}

func (f *cachedFile) ReadAt(p []byte, off int64) (int, error) {
	if len(p) >= f.cache.size || off < 0 {
		return f.File.ReadAt(p, off)
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= f.size {
			return n, io.EOF
		}
		k, err := f.copyBlock(p[n:], at)
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// copyBlock copies what the block that holds offset at has for p.
func (f *cachedFile) copyBlock(p []byte, at int64) (int, error) {
	c := f.cache
	key := blockKey{f.name, at / int64(c.size)}
	start := key.index * int64(c.size)
	b, mine := c.hold(key)
	if b == nil { // every block is in use: past the cache
		n := min(int64(len(p)), start+int64(c.size)-at, f.size-at)
		return f.File.ReadAt(p[:n], at)
	}
	defer c.release(b)
	if mine {
		b.b = make([]byte, min(int64(c.size), f.size-start))
		n, err := f.File.ReadAt(b.b, start)
		if n < len(b.b) {
			b.err = err
			if err == nil || err == io.EOF {
				b.err = io.ErrUnexpectedEOF
			}
		}
		close(b.ready)
	}
	<-b.ready
	if b.err != nil {
		return 0, b.err
	}
	return copy(p, b.b[at-start:]), nil
}

// hold returns the block of a key, to be released, and whether the caller has to read it. It returns nil if there is no
// room for it.
func (c *blockCache) hold(key blockKey) (b *block, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.blocks[key]; b != nil {
		b.users++
		c.used.MoveToFront(b.at)
		return b, false
	}
	if len(c.blocks) >= c.max {
		e := c.used.Back()
		for e != nil && e.Value.(*block).users > 0 {
			e = e.Prev()
		}
		if e == nil {
			return nil, false
		}
		c.drop(e.Value.(*block))
	}
	b = &block{key: key, ready: make(chan struct{}), users: 1}
	b.at = c.used.PushFront(b)
	c.blocks[key] = b
	return b, true
}

func (c *blockCache) release(b *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.users--
	if b.err != nil && c.blocks[b.key] == b { // the next reader tries anew
		c.drop(b)
	}
}

func (c *blockCache) drop(b *block) {
	delete(c.blocks, b.key)
	c.used.Remove(b.at)
}
