package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/ditrun/ditrun/internal/transfer"
)

// bucket is S3-compatible storage as far as a set needs it.
type bucket struct {
	name   string
	list   *minio.Client // repeats failed requests by itself
	read   minio.Core    // does not: readers go on where they were
	access string        // whose credentials, for messages
	pause  time.Duration // after the first failure of a read
}

// limits are how long requests wait. A listing of a large bucket may take its time.
type limits struct {
	list, read transfer.Limits
	pause      time.Duration // after the first failure of a read
}

var defaultLimits = limits{
	list: transfer.Limits{Header: 30 * time.Second, Idle: transfer.DefaultLimits.Idle},
	read: transfer.DefaultLimits, pause: 100 * time.Millisecond,
}

// listTries is how often a request of a listing is made.
const listTries = 6

// openRemote lists what is at s3://bucket/key.
func openRemote(ctx context.Context, location string, l limits) (*Set, error) {
	address, ok := strings.CutPrefix(location, "s3://")
	if !ok {
		return nil, fmt.Errorf("%s: want a path or s3://bucket/key (other S3-compatible storage: set AWS_ENDPOINT_URL)",
			location)
	}
	name, key, _ := strings.Cut(address, "/")
	if name == "" {
		return nil, fmt.Errorf("%s: no bucket in it, want s3://bucket/key", location)
	}
	b, err := openBucket(name, l)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", location, err)
	}
	s, err := b.open(ctx, location, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", location, b.explain(err))
	}
	return s, nil
}

// openBucket finds endpoint, region and credentials in the places where other programs look for them.
func openBucket(name string, l limits) (*bucket, error) {
	endpoint, secure := "s3.amazonaws.com", true
	lookup := minio.BucketLookupAuto
	region := cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
	providers := []credentials.Provider{&credentials.EnvAWS{}, &credentials.EnvMinio{},
		&credentials.FileAWSCredentials{}}
	custom := cmp.Or(os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"))
	if custom != "" {
		u, err := url.Parse(custom)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("AWS_ENDPOINT_URL %q: want http://host:port or https://host", custom)
		}
		endpoint, secure = u.Host, u.Scheme == "https"
		lookup = minio.BucketLookupPath
		region = cmp.Or(region, "us-east-1") // else it would be asked for
	} else {
		// The service that answers on Amazon's machines; elsewhere nothing does.
		providers = append(providers, &credentials.IAM{Client: &http.Client{Timeout: time.Second}})
	}
	creds := credentials.NewChainCredentials(providers)
	access := "no credentials were found"
	if v, err := creds.GetWithContext(nil); err == nil && v.AccessKeyID != "" {
		access = fmt.Sprintf("with the credentials of %.4s...", v.AccessKeyID)
	}
	transport, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, err
	}
	transport.MaxIdleConnsPerHost = 128
	o := minio.Options{Creds: creds, Secure: secure, Region: region, BucketLookup: lookup}
	o.Transport, o.MaxRetries = transfer.Limit(transport, l.list), listTries
	b := &bucket{name: name, access: access, pause: l.pause}
	if b.list, err = minio.New(endpoint, &o); err != nil {
		return nil, err
	}
	o.Transport, o.MaxRetries = transfer.Limit(transport, l.read), 1
	if b.read.Client, err = minio.New(endpoint, &o); err != nil {
		return nil, err
	}
	return b, nil
}

// maxObjects bounds a listing, which a faulty server may continue for ever.
const maxObjects = 20_000_000

func (b *bucket) open(ctx context.Context, location, key string) (*Set, error) {
	s := &Set{Location: location, Remote: true}
	s.open = func(o *Object) (File, error) {
		full := o.Name
		if s.prefix != "" {
			full = s.prefix + "/" + o.Name
		}
		return &remoteFile{ctx: ctx, b: b, key: full, o: *o}, nil
	}
	pattern := ""
	if isPattern(key) {
		key, pattern = path.Dir(key), path.Base(key)
		if key == "." {
			key = ""
		}
	} else if key != "" && !strings.HasSuffix(key, "/") {
		info, err := b.list.StatObject(ctx, b.name, key, minio.StatObjectOptions{})
		if err == nil {
			s.Single = true
			s.prefix, s.Root = path.Dir(key), "s3://"+path.Join(b.name, path.Dir(key))
			if s.prefix == "." {
				s.prefix, s.Root = "", "s3://"+b.name
			}
			s.Objects = []Object{{Name: path.Base(key), Size: info.Size, Version: info.ETag}}
			return s, nil
		}
		if code := minio.ToErrorResponse(err).StatusCode; code != http.StatusNotFound {
			return nil, err
		}
	}
	s.prefix = strings.Trim(key, "/")
	s.Root = "s3://" + path.Join(b.name, s.prefix)
	if err := b.listInto(ctx, s, pattern); err != nil {
		return nil, err
	}
	if len(s.Objects) == 0 {
		return nil, fmt.Errorf("nothing is there (%s)", b.access)
	}
	return s, nil
}

// listInto adds the objects below the set's prefix, or those directly in it that match a pattern.
func (b *bucket) listInto(ctx context.Context, s *Set, pattern string) error {
	ctx, cancel := context.WithCancel(ctx) // ends the listing when we leave early
	defer cancel()
	prefix := s.prefix
	if prefix != "" {
		prefix += "/"
	}
	last, count := "", 0
	for info := range b.list.ListObjects(ctx, b.name,
		minio.ListObjectsOptions{Prefix: prefix, Recursive: pattern == ""}) {
		if info.Err != nil {
			return info.Err
		}
		name, ok := strings.CutPrefix(info.Key, prefix)
		if !ok {
			return fmt.Errorf("the listing of %q names %q", prefix, info.Key)
		}
		if count++; info.Key == last || count > maxObjects {
			return fmt.Errorf("the listing does not end: %d objects, the last %q", count, info.Key)
		}
		last = info.Key
		if dir, _, deeper := strings.Cut(name, "/"); deeper && pattern == "" &&
			(len(s.Folders) == 0 || s.Folders[len(s.Folders)-1] != dir) {
			s.Folders = append(s.Folders, dir)
		}
		if name == "" || strings.HasSuffix(name, "/") {
			continue // a marker of a folder
		}
		if pattern != "" {
			match, err := path.Match(pattern, name)
			if err != nil {
				return fmt.Errorf("pattern: %w", err)
			}
			if !match {
				continue
			}
		}
		s.Objects = append(s.Objects, Object{Name: name, Size: info.Size, Version: info.ETag})
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	slices.SortFunc(s.Objects, func(a, b Object) int { return cmp.Compare(a.Name, b.Name) })
	for i := range s.Objects[min(1, len(s.Objects)):] {
		if s.Objects[i].Name == s.Objects[i+1].Name {
			return fmt.Errorf("the listing names %q twice", s.Objects[i].Name)
		}
	}
	slices.Sort(s.Folders)
	s.Folders = slices.Compact(s.Folders)
	return nil
}

// explain adds what a user can do about an error of the service.
func (b *bucket) explain(err error) error {
	var r minio.ErrorResponse
	if !errors.As(err, &r) {
		return err
	}
	switch r.StatusCode {
	case http.StatusForbidden, http.StatusUnauthorized:
		return fmt.Errorf("access denied, %s (AWS_ACCESS_KEY_ID, AWS_PROFILE): %w", b.access, err)
	case http.StatusNotFound:
		return fmt.Errorf("%w (bucket %s)", err, b.name)
	}
	return err
}
