package latents

import (
	"cmp"
	"os"
	"path/filepath"
)

// Bytes is what the shards of the set take on a disk, but for their headers.
func (p *Plan) Bytes() int64 { return p.bytes(p.Dataset.Samples) }

// ShardBytes is what the first shard takes, which no other exceeds.
func (p *Plan) ShardBytes() int64 {
	return p.bytes(min(p.Dataset.Samples, cmp.Or(p.ShardSize, DefaultShardSize)))
}

func (p *Plan) bytes(samples int) (n int64) {
	for _, t := range p.tensors(samples) {
		n += t.NumElements() * int64(t.DType.Size())
	}
	return n
}

// BytesLeft is about what is missing of Bytes where shards lie in the folder already.
func (p *Plan) BytesLeft(dir string) int64 {
	left := p.Bytes()
	entries, _ := os.ReadDir(dir) // whoever writes there says why it cannot be read
	for _, e := range entries {
		if ok, _ := filepath.Match("latents-*-of-*.safetensors", e.Name()); !ok {
			continue
		}
		if info, err := e.Info(); err == nil {
			left -= info.Size()
		}
	}
	if left < p.bytes(1) { // no sample is missing; the headers of the shards have been counted too
		return 0
	}
	return left
}
