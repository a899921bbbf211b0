package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ditrun/ditrun/data/catalog"
	"github.com/ditrun/ditrun/data/stream"
	"github.com/ditrun/ditrun/diffusion/training/samples"
	"github.com/ditrun/ditrun/torch/dist"
)

// checkPictures looks for bad pictures before a run begins, each process in its share, and leaves them out or ends the
// run, as --on-error says. A run that goes on with the pictures that it had does not look again, nor does one whose
// checkpoint was not found.
func (t *trainJob) checkPictures() error {
	if !t.pictures {
		return nil
	}
	pictures, rank, world := &t.options.pictures, t.group.Rank(), t.group.World()
	skip := rank == 0 && (t.resumeErr != nil || t.resume.trainedOn(t.set.Hash))
	if world > 1 {
		if err := fromRank0(t.ctx, t.group, "pictures were checked", &skip); err != nil {
			return err
		}
	}
	if skip {
		return nil
	}
	n := t.catalogue.Len()
	found, err := pictures.findBad(t.env, t.catalogue, rank*n/world, (rank+1)*n/world, t.process.LocalWorld)
	if world > 1 {
		joined := t.waiting("waiting for the other processes")
		found, err = joinChecks(t.ctx, t.group, found, err)
		joined()
	}
	if err != nil {
		return err
	}
	left := t.catalogue
	if rank == 0 {
		left, err = pictures.leaveOut(t.env, left, found)
	} else if bad := len(found.Bad); bad == n || bad > 0 && pictures.onError == "fail" {
		err = fmt.Errorf("%s: rank 0 names them", plural(bad, "bad picture"))
	} else {
		left = catalog.Without(left, found.IDs())
	}
	if err != nil {
		return err
	}
	if t.source, err = samples.Pictures(left, t.vae, t.set.VAEName, t.set.ImageSize, t.workers); err != nil {
		return err
	}
	name := t.set.Name
	t.set = t.source.Set()
	t.set.Name = name
	return t.options.checkBatch(t.set)
}

// tell makes v known to the other processes under key.
func tell(group *dist.Group, key string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return group.Store().Set(key, text)
}

// hear waits for what a process tells under key.
func hear(ctx context.Context, group *dist.Group, key string, v any) error {
	text, err := group.Store().Get(ctx, key)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("message of another process about the %s: %w", key, err)
	}
	return nil
}

// fromRank0 makes v that of rank 0.
func fromRank0(ctx context.Context, group *dist.Group, key string, v any) error {
	if group.Rank() == 0 {
		return tell(group, key, v)
	}
	return hear(ctx, group, key, v)
}

// A checkedShare is what one process found, in words for the others.
type checkedShare struct {
	Error             string
	Clipped, Oriented int
	Bad               []checkedBad
}

type checkedBad struct {
	ID        int
	Path, Why string
}

// joinChecks makes one of what the processes found in their shares, each with its error.
func joinChecks(ctx context.Context, group *dist.Group, found stream.PictureCheck, err error) (stream.PictureCheck,
	error) {
	mine := checkedShare{Clipped: found.Clipped, Oriented: found.Oriented}
	if err != nil {
		mine.Error = err.Error()
	}
	for _, b := range found.Bad {
		mine.Bad = append(mine.Bad, checkedBad{b.ID, b.Err.Path, b.Err.Err.Error()})
	}
	key := func(rank int) string { return fmt.Sprintf("pictures of rank %d", rank) }
	if err := errors.Join(err, tell(group, key(group.Rank()), mine)); err != nil {
		return found, err
	}
	all := stream.PictureCheck{}
	for rank := range group.World() {
		var share checkedShare
		if err := hear(ctx, group, key(rank), &share); err != nil {
			return all, err
		}
		if share.Error != "" {
			return all, fmt.Errorf("rank %d: %s", rank, share.Error)
		}
		all.Clipped += share.Clipped
		all.Oriented += share.Oriented
		for _, b := range share.Bad {
			all.Bad = append(all.Bad,
				catalog.Bad{ID: b.ID, Err: &catalog.BadPicture{Path: b.Path, Err: errors.New(b.Why)}})
		}
	}
	return all, nil
}
