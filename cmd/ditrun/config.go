package main

import (
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"github.com/ditrun/ditrun/diffusion/runs"
)

// notConfigured are flags that say how to talk to the user, not what to do.
var notConfigured = []string{"help", "config", "json", "quiet", "fetch"}

// relativeToConfig are flags that name what is read: their paths are relative to the configuration that has them where
// something is there, see [runs.PathIn]. Where a command writes must not follow from what is there already.
var relativeToConfig = []string{"data", "labels", "vae", "init-from", "text-encoder"}

// configNode returns the values of all flags of the command, defaults
// included, as a YAML mapping in the order in which help lists them. Written
// to a file it can be given back with --config.
func configNode(c *cli.Context, without ...string) (*yaml.Node, error) {
	node := &yaml.Node{Kind: yaml.MappingNode}
	for _, f := range c.Command.Flags {
		name := f.Names()[0]
		if slices.Contains(notConfigured, name) || slices.Contains(without, name) {
			continue
		}
		key, value := new(yaml.Node), new(yaml.Node)
		key.SetString(name)
		if err := value.Encode(flagValue(c, f)); err != nil {
			return nil, fmt.Errorf("config: --%s: %w", name, err)
		}
		node.Content = append(node.Content, key, value)
	}
	return node, nil
}

func flagValue(c *cli.Context, f cli.Flag) any {
	name := f.Names()[0]
	switch f.(type) {
	case *cli.StringSliceFlag:
		return c.StringSlice(name)
	case *cli.IntSliceFlag:
		return c.IntSlice(name)
	case *cli.DurationFlag:
		return c.Duration(name).String()
	}
	return c.Value(name)
}

// makeAbsolute makes the paths of a configuration, which are those of the named flags, absolute.
func makeAbsolute(node *yaml.Node, names ...string) error {
	for pair := node.Content; len(pair) > 0; pair = pair[2:] {
		if !slices.Contains(names, pair[0].Value) {
			continue
		}
		text, err := yamlText(pair[1])
		if err != nil {
			return err
		}
		path := strings.Join(text, "")
		if path == "" || strings.Contains(path, "://") {
			continue
		}
		full, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		if err := pair[1].Encode(full); err != nil {
			return err
		}
	}
	return nil
}

// configHash identifies the configuration without the named flags: a run may
// be continued by one that differs in those.
func configHash(c *cli.Context, without ...string) (string, error) {
	node, err := configNode(c, without...)
	if err != nil {
		return "", err
	}
	data, err := yaml.Marshal(node)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))[:16], nil
}

// isConfigOf says whether the text of a config.yaml gives the flags of the command the values that they have, the named
// ones aside. It need not have the flags in the same order. It may lack flags that were not given: those that came
// after it was written.
func isConfigOf(c *cli.Context, text []byte, without ...string) bool {
	var doc yaml.Node
	if yaml.Unmarshal(text, &doc) != nil || doc.Kind == 0 || doc.Content[0].Kind != yaml.MappingNode {
		return false
	}
	now, err := configNode(c, without...)
	if err != nil {
		return false
	}
	values := map[string][]string{}
	for pair := now.Content; len(pair) > 0; pair = pair[2:] {
		if values[pair[0].Value], err = yamlText(pair[1]); err != nil {
			return false
		}
	}
	for pair := doc.Content[0].Content; len(pair) > 0; pair = pair[2:] {
		name := pair[0].Value
		if slices.Contains(without, name) {
			continue
		}
		value, isFlag := values[name]
		before, err := yamlText(pair[1])
		if !isFlag || err != nil || !slices.Equal(before, value) && !samePath(name, before, value) {
			return false
		}
		delete(values, name)
	}
	for name := range values {
		if slices.Contains(c.LocalFlagNames(), name) {
			return false
		}
	}
	return true
}

// samePath says whether two values of a flag are one path, of which earlier versions did not keep the whole.
func samePath(flag string, before, now []string) bool {
	if !slices.Contains(pathFlags, flag) || len(before) != 1 || len(now) != 1 || before[0] == "" {
		return false
	}
	path, err := filepath.Abs(before[0])
	return err == nil && path == now[0]
}

//go:embed presets
var presets embed.FS

// presetNames lists the configurations that come with the program.
func presetNames() (names []string) {
	files, _ := presets.ReadDir("presets") // compiled in
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".yaml"))
	}
	return names
}

// presetFor names the preset for a set of n pictures of one's own.
func presetFor(n int) string {
	for _, of := range []int{50, 500, 5000} {
		if n <= 3*of {
			return fmt.Sprintf("pictures-%d", of)
		}
	}
	return "pictures-50000"
}

// readConfig reads a file, or a preset where there is no such file.
func readConfig(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	if slices.Contains(presetNames(), path) {
		return presets.ReadFile("presets/" + path + ".yaml")
	}
	return nil, withHint(fmt.Errorf("config %s: no such file", path), "presets are %s",
		strings.Join(presetNames(), ", "))
}

// applyConfig sets the flags that were not given on the command line to the
// values in the file, which has flag names as keys. What the file lacks keeps
// its default; a key that is no flag is an error, since it is mostly a slip.
func applyConfig(c *cli.Context, path string) error {
	data, err := readConfig(path)
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("config %s: %w", path, err)
	}
	if doc.Kind == 0 {
		return nil // an empty file
	}
	if doc.Content[0].Kind != yaml.MappingNode {
		return fmt.Errorf("config %s: want a mapping from flag names to values", path)
	}
	given := c.LocalFlagNames()
	var keys []string
	for _, f := range c.Command.Flags {
		if name := f.Names()[0]; !slices.Contains(notConfigured, name) {
			keys = append(keys, name)
		}
	}
	seen := map[string]bool{}
	for pairs := doc.Content[0].Content; len(pairs) > 0; pairs = pairs[2:] {
		key, value := pairs[0], pairs[1]
		name := key.Value
		at := fmt.Sprintf("config %s: line %d", path, key.Line)
		if !slices.Contains(keys, name) {
			err := fmt.Errorf("%s: unknown key %q", at, name)
			if hint := hintOfFlag(c.Command.Name, "", name, keys); hint != "" {
				err = withHint(err, "%s", hint)
			}
			return err
		}
		if seen[name] {
			return fmt.Errorf("%s: %q stands there twice", at, name)
		}
		seen[name] = true
		if slices.Contains(given, name) {
			continue
		}
		text, err := yamlText(value)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", at, name, err)
		}
		for _, t := range text {
			if slices.Contains(relativeToConfig, name) {
				t = runs.PathIn(path, t)
			}
			if err := c.Set(name, t); err != nil {
				return fmt.Errorf("%s: %s %q: %s", at, name, t, unreadable(c, name, err.Error()))
			}
		}
	}
	return nil
}

// yamlText returns the scalar, or the scalars of a list, as the command line
// would give them.
func yamlText(v *yaml.Node) ([]string, error) {
	switch v.Kind {
	case yaml.ScalarNode:
		if v.Tag == "!!null" {
			return nil, errors.New("no value")
		}
		if v.Tag == "!!binary" { // what is not UTF-8, as the name of a folder may be
			var text string
			err := v.Decode(&text)
			return []string{text}, err
		}
		return []string{v.Value}, nil
	case yaml.SequenceNode:
		var all []string
		for _, item := range v.Content {
			if item.Kind != yaml.ScalarNode {
				return nil, errors.New("want a list of plain values")
			}
			all = append(all, item.Value)
		}
		if len(all) == 0 {
			return nil, nil
		}
		return []string{strings.Join(all, ",")}, nil
	}
	return nil, errors.New("want a plain value or a list of them")
}
