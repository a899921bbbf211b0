package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/diffusion/evaluation"
	"github.com/ditrun/ditrun/internal/disk"
)

// A cardDifference is a line in which two cards differ.
type cardDifference struct {
	Setting string `json:"setting"`
	A       any    `json:"a"` // nil where it is not in this card
	B       any    `json:"b"`
}

// runCompareCards says in which settings two cards differ, and prints their numbers side by side.
func runCompareCards(e *env) error {
	args := e.flags.Args().Slice()
	if len(args) != 2 {
		return withHint(usagef("eval --compare: want two cards, found %s", plural(len(args), "argument")),
			"as in `ditrun eval --compare card.json other.json`")
	}
	var cards [2]*evaluation.Card
	var flat [2]map[string]any
	for i, path := range args {
		var err error
		if cards[i], flat[i], err = readCard(path); err != nil {
			return err
		}
	}
	differences := compareCards(flat[0], flat[1])
	if !e.json {
		printComparison(e, args, cards, differences)
	}
	return e.result(map[string]any{"differences": differences, "a": cards[0], "b": cards[1]})
}

// maxCard is far above the size of any card.
const maxCard = 1 << 20

// readCard reads a card, also as a flat list of its settings by their path, without its numbers.
func readCard(path string) (*evaluation.Card, map[string]any, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, nil, disk.OpenError(path, err)
	}
	if !st.Mode().IsRegular() { // a pipe or a device may have no end
		return nil, nil, fmt.Errorf("%s: not a regular file, want a card of `ditrun eval --out`", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, disk.OpenError(path, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCard+1))
	if err != nil {
		return nil, nil, disk.OpenError(path, err)
	}
	if len(text) > maxCard {
		return nil, nil, fmt.Errorf("%s: more than %d bytes: no card is so large", path, maxCard)
	}
	return parseCard(path, text)
}

func parseCard(path string, text []byte) (*evaluation.Card, map[string]any, error) {
	card := &evaluation.Card{}
	var all map[string]any
	err := json.Unmarshal(text, card)
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: not a card of `ditrun eval --out`: %w", path, err)
	}
	if card.Settings.Covariance == "" {
		return nil, nil, fmt.Errorf("%s: not a card of `ditrun eval --out`: it has no settings", path)
	}
	flat := map[string]any{}
	flatten("", all, flat)
	for key := range flat {
		if !strings.Contains(key, ".") && key != "software" && key != "device" { // numbers and texts
			delete(flat, key)
		}
	}
	return card, flat, nil
}

// flatten writes the leaves of v into out, under their keys joined by dots.
func flatten(prefix string, v any, out map[string]any) {
	m, ok := v.(map[string]any)
	if !ok {
		out[prefix] = v
		return
	}
	for key, v := range m {
		if prefix != "" {
			key = prefix + "." + key
		}
		flatten(key, v, out)
	}
}

// compareCards lists the settings in which two cards differ, in the order of their names.
func compareCards(a, b map[string]any) []cardDifference {
	both := maps.Clone(a)
	maps.Copy(both, b)
	list := []cardDifference{}
	for _, key := range slices.Sorted(maps.Keys(both)) {
		if fmt.Sprint(a[key]) != fmt.Sprint(b[key]) {
			list = append(list, cardDifference{key, a[key], b[key]})
		}
	}
	return list
}

func printComparison(e *env, paths []string, cards [2]*evaluation.Card, differences []cardDifference) {
	e.item("a", paths[0])
	e.item("b", paths[1])
	values := [2]map[string]string{{}, {}}
	var names []string
	for i, c := range cards {
		for _, n := range numbersOf(c) {
			if values[0][n.name] == "" && values[1][n.name] == "" {
				names = append(names, n.name)
			}
			values[i][n.name] = n.text
		}
	}
	for _, name := range names {
		e.printf("%-13s %-22s %s", name, orDash(values[0][name]), orDash(values[1][name]))
	}
	if len(differences) == 0 {
		e.printf("the settings are the same")
		return
	}
	e.printf("%s:", plural(len(differences), "setting")+" differ")
	for _, d := range differences {
		e.printf("%s", d.Setting)
		e.item("  a", settingText(d.A))
		e.item("  b", settingText(d.B))
	}
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// settingText is a value of a card in one line.
func settingText(v any) string {
	if v == nil {
		return "-"
	}
	return plain(fmt.Sprint(v))
}

// sortedRecipe lists the keywords of a recipe in a fixed order.
func sortedRecipe(recipe map[string]string) []string { return slices.Sorted(maps.Keys(recipe)) }
