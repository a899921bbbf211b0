package evaluation

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/picture"
	"github.com/ditrun/ditrun/diffusion/metrics"
	"github.com/ditrun/ditrun/internal/disk"
	"github.com/ditrun/ditrun/internal/names"
)

// Names of the features of a picture. In files of features that [Set.Save] writes, these are those of the tensors.
const (
	pool          = "pool"          // of Inception's last pool: FID, precision, recall, KID
	spatial       = "spatial"       // of the middle of Inception: sFID
	probabilities = "probabilities" // of Inception's classes: IS
	foreign       = "features"      // of another network, or of one that a file does not name
)

// SetInfo is what a card says of a set.
type SetInfo struct {
	Path  string `json:"path"`
	Holds string `json:"holds"`           // pictures, features, statistics, or two of them
	Count int    `json:"count,omitempty"` // of pictures or rows; 0 where statistics do not say it
	Size  string `json:"size,omitempty"`  // of the pictures, HEIGHTxWIDTH
	// Crop says how pictures were brought to the size, "" where they had it.
	Crop string `json:"crop,omitempty"`
	// SHA256 is that of a file of features or statistics. PixelsSHA256 is that of the bytes [N, H, W, 3] of all
	// pictures: the same pictures in the same order have the same in every container.
	SHA256       string `json:"sha256,omitempty"`
	PixelsSHA256 string `json:"pixels_sha256,omitempty"`
	// Recipe is how the first picture was drawn, as far as its file says it, by keyword.
	Recipe map[string]string `json:"recipe,omitempty"`
	// Inception is that of features of a file, which says it, "" for others.
	Inception   string `json:"inception_sha256,omitempty"`
	Preparation string `json:"preparation,omitempty"`
}

// A statistic is the mean [D] and covariance [D, D] of features.
type statistic struct{ mean, cov []float64 }

// A Set is what can be compared. It is used by one goroutine.
type Set struct {
	info       SetInfo
	pictures   pictures // nil for none
	features   map[string]metrics.Features
	statistics map[string]statistic
	score      *metrics.Score // of the pictures, once their features were made
}

// Info returns what the set is. What is known of pictures once they are read is there after [Evaluate].
func (s *Set) Info() SetInfo { return s.info }

// HasPictures says whether the set holds pictures, of which [Evaluate] makes features.
func (s *Set) HasPictures() bool { return s.pictures != nil }

// Close releases the set.
func (s *Set) Close() error {
	if s.pictures == nil {
		return nil
	}
	return s.pictures.close()
}

// OpenOptions of [Open]. The zero value is fine.
type OpenOptions struct {
	// Size crops pictures of folders and archives as ADM does; those of a .npz must have it. Nil leaves pictures as
	// they are, and they must all be of one size.
	Size    *picture.Size
	Catalog catalog.Options
}

// Open opens a set, told by its name and what is in it: a .npz of pictures (uint8 arr_0 [N, H, W, 3]), of statistics
// (mu and sigma, or mu_s and sigma_s of the features of sFID) or of both, as ADM's references; features [N, D] in a
// .npz, a .npy or a .safetensors; or pictures in whatever package catalog opens. The caller closes it.
func Open(ctx context.Context, path string, o OpenOptions) (*Set, error) {
	s := &Set{info: SetInfo{Path: path}, features: map[string]metrics.Features{}, statistics: map[string]statistic{}}
	var err error
	switch strings.ToLower(filepath.Ext(path)) {
	case ".npz":
		err = s.openNPZ(path)
	case ".npy":
		err = s.openNPY(path)
	case ".safetensors":
		err = s.openSafetensors(path)
	default:
		err = s.openCatalog(ctx, path, o)
	}
	if err != nil {
		return nil, err
	}
	if array, ok := s.pictures.(*stored); ok && o.Size != nil && array.side != *o.Size {
		s.Close()
		return nil, fmt.Errorf("%s: %w: its pictures are %dx%d, want %dx%d", path, ErrNotCropped, array.side.Height,
			array.side.Width, o.Size.Height, o.Size.Width)
	}
	if s.info.Holds = s.holds(); s.pictures == nil {
		if s.info.SHA256, err = disk.SHA256(path); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// holds says in words what the set has.
func (s *Set) holds() string {
	var list []string
	if s.pictures != nil {
		list = append(list, "pictures")
	}
	if len(s.features) > 0 {
		list = append(list, "features")
	}
	if len(s.statistics) > 0 {
		list = append(list, "statistics")
	}
	return strings.Join(list, " and ")
}

// openCatalog opens a folder, an archive or a table of pictures.
func (s *Set) openCatalog(ctx context.Context, path string, o OpenOptions) error {
	c := o.Catalog
	c.NoClasses = true
	src, err := catalog.Open(ctx, path, c)
	if err != nil {
		return err
	}
	if src.Len() == 0 {
		src.Close()
		return fmt.Errorf("%s: no pictures", path)
	}
	p := &listed{src: src, path: path, crop: o.Size}
	s.pictures, s.info.Count = p, src.Len()
	if s.info.Recipe, err = p.recipe(); err != nil {
		src.Close()
		return err
	}
	if o.Size != nil {
		s.info.Crop = picture.PillowClassic.Crop()
	}
	return nil
}

// rows returns nil where the set has features of a kind, or pictures of which they can be made.
func (s *Set) rows(kind string) error {
	if s.features[kind].N > 0 || s.pictures != nil && kind != foreign {
		return nil
	}
	return fmt.Errorf("%s holds %s, and no %s", s.info.Path, s.describe(), wordOf(kind))
}

// describe says what the set has, in words.
func (s *Set) describe() string {
	var list []string
	if s.pictures != nil {
		list = append(list, "pictures")
	}
	for _, kind := range []string{pool, spatial, probabilities, foreign} {
		if f, ok := s.features[kind]; ok {
			list = append(list, fmt.Sprintf("%s [%d, %d]", wordOf(kind), f.N, f.D))
		}
		if st, ok := s.statistics[kind]; ok {
			list = append(list, fmt.Sprintf("statistics of %d %s", len(st.mean), wordOf(kind)))
		}
	}
	return names.Few(list)
}

func wordOf(kind string) string {
	switch kind {
	case pool:
		return "features of Inception's pool"
	case spatial:
		return "spatial features (of sFID)"
	case probabilities:
		return "class probabilities (of IS)"
	}
	return "features"
}

// gaussian returns mean and covariance of one kind of features: of statistics where the set has them, which for a
// reference are of more pictures than it holds.
func (s *Set) gaussian(alg metrics.Algebra, kind string) (*metrics.Gaussian, error) {
	var g *metrics.Gaussian
	var err error
	if st, ok := s.statistics[kind]; ok {
		g, err = metrics.FromStatistics(st.mean, st.cov)
	} else {
		g, err = metrics.Fit(alg, s.features[kind])
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", s.info.Path, wordOf(kind), err)
	}
	return g, nil
}

// width is the number of features of a picture, 0 where the set has none yet.
func (s *Set) width(kind string) int {
	if st, ok := s.statistics[kind]; ok {
		return len(st.mean)
	}
	return s.features[kind].D
}

var errNothing = errors.New("want pictures (uint8 arr_0 [N, H, W, 3]), features (float [N, D]) or statistics (mu, " +
	"sigma)")

// kinds in which statistics are found, with the names of their arrays.
var statisticNames = []struct{ kind, mean, cov string }{{pool, "mu", "sigma"}, {spatial, "mu_s", "sigma_s"}}
