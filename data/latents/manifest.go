package latents

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/classes"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch/checkpoint"
)

// ManifestName is the file that makes a folder of shards a set of latents. It is written last.
const ManifestName = "manifest.json"

// DefaultShardSize is the number of samples in a shard: 64 MiB of float16 moments at 32 x 32 x 4.
const DefaultShardSize = 4096

const (
	latentsFormat  = "ditrun-latents"
	latentsVersion = 1
)

// Plan fixes the bytes of a set of latents before the first is made: shard k holds samples [k*ShardSize,
// (k+1)*ShardSize) of the catalogue, whoever encodes them. Every field but ShardSize and Tool is required.
type Plan struct {
	Dataset Dataset `json:"dataset"`
	VAE     VAE     `json:"vae"`
	// Layout of one sample: Channels latent channels of Height x Width, stored as twice as many channels of moments.
	Channels int              `json:"channels"`
	Height   int              `json:"height"`
	Width    int              `json:"width"`
	DType    checkpoint.DType `json:"dtype"` // F16 or F32
	Flip     bool             `json:"flip"`  // whether moments of the mirrored pictures are kept too

	ImageSize picture.Size `json:"image_size"`
	Crop      string       `json:"crop"`    // as of Resampler.Crop
	Decoder   string       `json:"decoder"` // as of Decoders
	// Precision of the encoder: fp32, tf32, bf16 or fp16; "" in sets from before it was kept.
	Precision string `json:"precision,omitempty"`
	// Orientation of the pictures; "", as in sets from before it was kept, is AsStored.
	Orientation picture.Orientation `json:"orientation,omitempty"`

	ShardSize int    `json:"shard_size"`
	Tool      string `json:"tool"` // name and version of the program; plans that differ only here are equal
}

// Dataset describes the catalogue that latents were made from.
type Dataset struct {
	Samples int      `json:"samples"`
	Hash    string   `json:"hash"`
	Order   string   `json:"order"`
	Classes []string `json:"classes"`
}

// DatasetOf describes src for a plan.
func DatasetOf(src catalog.Source) Dataset {
	return Dataset{Samples: src.Len(), Hash: src.Hash(), Order: src.Order(), Classes: src.Classes()}
}

// WrongScale says in words that latents, which scaling by factor gave the standard deviation std, are not what the
// noise of a DiT is made for, "" where they are. Those of Stable Diffusion are, on any photos.
func WrongScale(factor, std float64) string {
	if !(std < 0.5 || std > 2) {
		return ""
	}
	text := fmt.Sprintf("the latents have a standard deviation of %.3g after scaling by %.5g, a DiT wants about 1: "+
		"a scaling factor of another autoencoder?", std, factor)
	if std > 0 {
		text += fmt.Sprintf(" %.4g would fit", factor/std)
	}
	return text
}

// VAE names the autoencoder that made a set of latents.
type VAE struct {
	Name          string  `json:"name"`
	SHA256        string  `json:"sha256"` // hex, of its weights
	ScalingFactor float64 `json:"scaling_factor"`
}

// Manifest describes a finished set of latents. Mean and Std are, per latent channel, those of unscaled latents
// sampled from the posteriors, over all samples and views.
type Manifest struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Plan
	Skipped []Skipped   `json:"skipped"`
	Mean    []float64   `json:"mean"`
	Std     []float64   `json:"std"`
	Shards  []ShardInfo `json:"shards"`
}

// Skipped is a picture that is in the catalogue but not in the latents.
type Skipped struct {
	ID     int    `json:"id"`
	Name   string `json:"name"`
	Label  int    `json:"label"`
	Reason string `json:"reason"`
}

// ShardInfo describes one file: Samples samples with ids in [First, End).
type ShardInfo struct {
	File    string            `json:"file"`
	Samples int               `json:"samples"`
	First   int               `json:"first"`
	End     int               `json:"end"`
	Bytes   int64             `json:"bytes"`
	CRC32C  map[string]string `json:"crc32c"` // hex, by tensor
	SHA256  string            `json:"sha256"` // hex, of the file
}

// Limits on what a plan may ask for, far above use, that keep sizes from overflowing.
const (
	maxSide      = 1 << 14
	maxChannels  = 1 << 10
	maxShardSize = 1 << 20
	maxRecord    = 1 << 28
	maxSamples   = 1 << 40
)

func (p *Plan) validate() error {
	within := func(name string, v, hi int) error {
		if v < 1 || v > hi {
			return fmt.Errorf("%s %d: want 1 to %d", name, v, hi)
		}
		return nil
	}
	given := func(name, v string) error {
		if v == "" {
			return fmt.Errorf("%s is missing", name)
		}
		return nil
	}
	if err := errors.Join(
		within("samples", p.Dataset.Samples, maxSamples),
		within("classes", len(p.Dataset.Classes), maxSamples),
		given("data set hash", p.Dataset.Hash),
		given("data set order", p.Dataset.Order),
		given("vae name", p.VAE.Name),
		given("vae sha256", p.VAE.SHA256),
		within("channels", p.Channels, maxChannels),
		within("height", p.Height, maxSide),
		within("width", p.Width, maxSide),
		p.ImageSize.Validate(),
		p.Orientation.Validate(),
		given("crop", p.Crop),
		given("decoder", p.Decoder),
		within("shard size", p.ShardSize, maxShardSize),
	); err != nil {
		return err
	}
	if p.DType != checkpoint.F16 && p.DType != checkpoint.F32 {
		return fmt.Errorf("dtype %q: want %s or %s", p.DType, checkpoint.F16, checkpoint.F32)
	}
	if s := p.VAE.ScalingFactor; !(s > 0) || math.IsInf(s, 1) {
		return fmt.Errorf("scaling factor %v: want a positive number", s)
	}
	if p.recordSize() > maxRecord {
		return fmt.Errorf("moments of %d x %d x %d: want at most %d bytes", 2*p.Channels, p.Height, p.Width, maxRecord)
	}
	return nil
}

// recordLen is the number of moments of one sample, recordSize that of their bytes.
func (p *Plan) recordLen() int  { return 2 * p.Channels * p.Height * p.Width }
func (p *Plan) recordSize() int { return p.recordLen() * p.DType.Size() }

// NumShards returns the number of shards.
func (p *Plan) NumShards() int {
	return (p.Dataset.Samples + p.ShardSize - 1) / p.ShardSize
}

// Range returns the sample ids [lo, hi) of shard k.
func (p *Plan) Range(k int) (lo, hi int) {
	lo = k * p.ShardSize
	return lo, min(lo+p.ShardSize, p.Dataset.Samples)
}

func (p *Plan) file(k int) string {
	return fmt.Sprintf("latents-%05d-of-%05d.safetensors", k, p.NumShards())
}

// Names of the tensors of a shard, in file order. Moments come first, so that record i lies at a multiple of the
// record size from a page boundary.
const (
	tensorMoments     = "moments"
	tensorMomentsFlip = "moments_flip"
	tensorLabels      = "labels"
	tensorIndex       = "index"
)

// tensors describes a shard of n samples.
func (p *Plan) tensors(n int) []checkpoint.Info {
	moments := []int64{int64(n), int64(2 * p.Channels), int64(p.Height), int64(p.Width)}
	list := []checkpoint.Info{{Name: tensorMoments, DType: p.DType, Shape: moments}}
	if p.Flip {
		list = append(list, checkpoint.Info{Name: tensorMomentsFlip, DType: p.DType, Shape: moments})
	}
	return append(list,
		checkpoint.Info{Name: tensorLabels, DType: checkpoint.I64, Shape: []int64{int64(n)}},
		checkpoint.Info{Name: tensorIndex, DType: checkpoint.I64, Shape: []int64{int64(n)}})
}

// property is one line of a shard's metadata.
type property struct{ key, value string }

// properties are what shards of one set have in common; the id range is added for a single shard. Two plans are
// equal if these and the class names are.
func (p *Plan) properties() []property {
	list := []property{
		{"format", latentsFormat},
		{"version", strconv.Itoa(latentsVersion)},
		{"vae_sha256", p.VAE.SHA256},
		{"vae", p.VAE.Name},
		{"scaling_factor", strconv.FormatFloat(p.VAE.ScalingFactor, 'g', -1, 64)},
		{"dataset", p.Dataset.Hash},
		{"order", p.Dataset.Order},
		{"samples", strconv.Itoa(p.Dataset.Samples)},
		{"image_size", p.ImageSize.String()},
		{"crop", p.Crop},
		{"decoder", p.Decoder},
		{"dtype", string(p.DType)},
		{"flip", strconv.FormatBool(p.Flip)},
		{"moments", fmt.Sprintf("%dx%dx%d", 2*p.Channels, p.Height, p.Width)},
		{"shard_size", strconv.Itoa(p.ShardSize)},
	}
	if p.Precision != "" {
		list = append(list, property{"precision", p.Precision})
	}
	return append(list, property{orientationKey, string(cmp.Or(p.Orientation, picture.AsStored))})
}

const orientationKey = "orientation"

// recorded returns a property from the metadata of a shard. That pictures are as stored is not written down, as it was
// not before there was a choice.
func recorded(meta map[string]string, key string) (value string, ok bool) {
	value, ok = meta[key]
	if !ok && key == orientationKey {
		return string(picture.AsStored), true
	}
	return value, ok
}

func (p *Plan) metadata(k int) map[string]string {
	lo, hi := p.Range(k)
	m := map[string]string{"ids": fmt.Sprintf("%d-%d", lo, hi)}
	for _, v := range p.properties() {
		m[v.key] = v.value
	}
	if m[orientationKey] == string(picture.AsStored) {
		delete(m, orientationKey)
	}
	return m
}

// differs words the first difference between what was found and the plan, "" if there is none.
func (p *Plan) differs(found *Plan) string {
	have := map[string]string{}
	for _, v := range found.properties() {
		have[v.key] = v.value
	}
	for _, want := range p.properties() {
		switch {
		case have[want.key] == want.value:
		case want.key == "dataset" && found.Dataset.Samples != p.Dataset.Samples:
			return fmt.Sprintf("made of other pictures: %d then, %d now", found.Dataset.Samples, p.Dataset.Samples)
		case want.key == "dataset":
			return fmt.Sprintf("made of other pictures, or of the same %d under other names", p.Dataset.Samples)
		default:
			return fmt.Sprintf("made with %s %s, this plan has %s", want.key, cmp.Or(have[want.key], "not known"),
				want.value)
		}
	}
	if other := classes.Difference(p.Dataset.Classes, found.Dataset.Classes); other != "" {
		return "made with other class names: " + other
	}
	return ""
}

// Further metadata of a shard.
const (
	metaCRC32C  = "crc32c"  // JSON: checksums by tensor
	metaSkipped = "skipped" // JSON: []Skipped, left out where there are none
)

// checkShard verifies that an open shard k is what the plan says, and returns the samples that were skipped. The error
// of a shard that belongs to another set is a mismatch.
func (p *Plan) checkShard(f *checkpoint.File, k int) ([]Skipped, error) {
	meta := f.Metadata()
	lo, hi := p.Range(k)
	for _, want := range append(p.properties(), property{"ids", fmt.Sprintf("%d-%d", lo, hi)}) {
		if have, ok := recorded(meta, want.key); !ok {
			return nil, fmt.Errorf("metadata lacks %q", want.key)
		} else if have != want.value {
			return nil, fmt.Errorf("%s is %s, want %s", want.key, have, want.value)
		}
	}
	var skipped []Skipped
	if text, ok := meta[metaSkipped]; ok {
		if err := json.Unmarshal([]byte(text), &skipped); err != nil {
			return nil, fmt.Errorf("metadata %q: %w", metaSkipped, err)
		}
		next := lo
		for _, s := range skipped {
			if s.ID < next || s.ID >= hi {
				return nil, fmt.Errorf("metadata %q: sample %d, want ids from %d to %d, ascending", metaSkipped, s.ID,
					next, hi-1)
			}
			next = s.ID + 1
		}
	}
	have := f.Tensors()
	for i, want := range p.tensors(hi - lo - len(skipped)) {
		if i >= len(have) || have[i].Name != want.Name || have[i].DType != want.DType ||
			!slices.Equal(have[i].Shape, want.Shape) {
			return nil, fmt.Errorf("tensor %d is not %s %s %v", i, want.Name, want.DType, want.Shape)
		}
	}
	return skipped, nil
}

// maxManifest bounds the memory an untrusted manifest can cost.
const maxManifest = 1 << 28

// ReadManifest returns the manifest of the set in dir without opening its shards.
func ReadManifest(dir string) (*Manifest, error) {
	m, err := readManifest(dir)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	return m, nil
}

// readManifest reads and checks dir's manifest. The error for a missing file is fs.ErrNotExist.
func readManifest(dir string) (*Manifest, error) {
	f, err := os.Open(filepath.Join(dir, ManifestName))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, err
	}
	return parseManifest(b)
}

func parseManifest(b []byte) (*Manifest, error) {
	if len(b) > maxManifest {
		return nil, fmt.Errorf("%s: more than %d bytes", ManifestName, maxManifest)
	}
	b, err := disk.PlainText(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestName, err)
	}
	// The version decides how the rest is to be read, so it is looked at alone first.
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestName, err)
	}
	if head.Format != latentsFormat {
		return nil, fmt.Errorf("%s: format %q, want %q", ManifestName, head.Format, latentsFormat)
	}
	if head.Version != latentsVersion {
		return nil, fmt.Errorf("%s: version %d, this program reads version %d", ManifestName, head.Version,
			latentsVersion)
	}
	m := new(Manifest)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestName, err)
	}
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestName, err)
	}
	if err := disk.CheckSeal(b); err != nil {
		return nil, fmt.Errorf("%s: %w: delete it and encode again, which reads the shards and writes it anew",
			ManifestName, err)
	}
	return m, nil
}

func (m *Manifest) validate() error {
	if err := m.Plan.validate(); err != nil {
		return err
	}
	if len(m.Mean) != m.Channels || len(m.Std) != m.Channels {
		return fmt.Errorf("%s and %s, want %d", names.Plural(len(m.Mean), "mean"),
			names.Plural(len(m.Std), "standard deviation"), m.Channels)
	}
	if len(m.Shards) != m.NumShards() {
		return fmt.Errorf("%s, want %d for %s", names.Plural(len(m.Shards), "shard"), m.NumShards(),
			names.Plural(m.Dataset.Samples, "sample"))
	}
	for k, s := range m.Shards {
		lo, hi := m.Range(k)
		// The name is compared, not used: a path in it would lead out of the folder.
		if s.File != m.file(k) {
			return fmt.Errorf("shard %d is called %q, want %q", k, s.File, m.file(k))
		}
		if s.First != lo || s.End != hi || s.Samples < 0 || s.Samples > hi-lo {
			return fmt.Errorf("shard %d: %s with ids %d-%d, want at most %d with ids %d-%d", k,
				names.Plural(s.Samples, "sample"), s.First, s.End, hi-lo, lo, hi)
		}
	}
	return nil
}
