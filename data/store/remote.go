package store

import (
	"context"
	"fmt"
)

func openRemote(ctx context.Context, location string) (*Set, error) {
	return nil, fmt.Errorf("%s: not supported yet", location)
}
