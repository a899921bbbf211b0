package dit

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch"
)

// A BlockKind is one of the paper's designs of a transformer block, which differ in how timestep and
// class act on the tokens (section 3.2). The zero value is adaLN-Zero.
type BlockKind string

// The kinds of blocks.
const (
	AdaLNZero      BlockKind = "" // as files have it that know no other kind
	AdaLN          BlockKind = "adaln"
	InContext      BlockKind = "in-context"
	CrossAttention BlockKind = "cross-attention"
)

// String returns in-context, cross-attention, adaln or adaln-zero.
func (k BlockKind) String() string {
	if k == AdaLNZero {
		return "adaln-zero"
	}
	return string(k)
}

// UnmarshalText reads what String writes, or nothing for adaLN-Zero.
func (k *BlockKind) UnmarshalText(text []byte) (err error) {
	*k, err = named("block", string(text), BlockKinds())
	return err
}

// ParseBlock reads what [BlockKind.String] writes.
func ParseBlock(text string) (k BlockKind, err error) { return k, k.UnmarshalText([]byte(text)) }

// A ConditionKind says what a model is conditioned on beside the timestep. The zero value is classes.
type ConditionKind string

// The kinds of conditions.
const (
	OnClass        ConditionKind = "" // as files have it that know no other kind
	OnText         ConditionKind = "text"
	OnTextAndClass ConditionKind = "text+class"
	OnNothing      ConditionKind = "none"
)

// ConditionKinds lists the kinds.
func ConditionKinds() []ConditionKind {
	return []ConditionKind{OnClass, OnText, OnTextAndClass, OnNothing}
}

// String returns class, text, text+class or none.
func (k ConditionKind) String() string {
	if k == OnClass {
		return "class"
	}
	return string(k)
}

// UnmarshalText reads what String writes, or nothing for classes.
func (k *ConditionKind) UnmarshalText(text []byte) (err error) {
	*k, err = named("condition", string(text), ConditionKinds())
	return err
}

// ParseCondition reads what [ConditionKind.String] writes.
func ParseCondition(text string) (k ConditionKind, err error) {
	return k, k.UnmarshalText([]byte(text))
}

// named returns the kind that text names; the empty text names the zero value.
func named[K interface {
	~string
	fmt.Stringer
}](what, text string, kinds []K) (K, error) {
	var names []string
	for _, k := range kinds {
		if text == k.String() || text == string(k) {
			return k, nil
		}
		names = append(names, k.String())
	}
	return "", fmt.Errorf("%s %q: want %s", what, text, strings.Join(names, ", "))
}

// HasClass says whether the model takes class labels.
func (c Config) HasClass() bool { return c.Condition == OnClass || c.Condition == OnTextAndClass }

// HasText says whether the model takes text tokens.
func (c Config) HasText() bool { return c.Condition == OnText || c.Condition == OnTextAndClass }

// SetCondition makes c a model of condition k: of classes, where it has them, numClasses, and of captions of at
// most length tokens of width numbers. What k does not name becomes zero.
func (c *Config) SetCondition(k ConditionKind, numClasses, width, length int) {
	c.Condition, c.NumClasses, c.TextWidth, c.TextLength = k, 0, 0, 0
	if c.HasClass() {
		c.NumClasses = numClasses
	}
	if c.HasText() {
		c.TextWidth, c.TextLength = width, length
	}
	if k == OnNothing {
		c.ClassDropoutProb = 0
	}
}

// Conditions says what the model is conditioned on: "1000 classes", "text of 77 tokens of width 768".
func (c Config) Conditions() string {
	var parts []string
	if c.HasClass() {
		parts = append(parts, names.Plural(c.NumClasses, "class"))
	}
	if c.HasText() {
		parts = append(parts, fmt.Sprintf("text of %s of width %d", names.Plural(c.TextLength, "token"), c.TextWidth))
	}
	if parts == nil {
		return "no condition"
	}
	return strings.Join(parts, " and ")
}

// A Condition is what a batch of N is to be conditioned on. A model takes the parts that its
// [Config.Condition] names; the others are nil.
type Condition struct {
	Labels  *torch.Tensor // Int64 [N]
	Tokens  *torch.Tensor // [N, L, W] of a text encoder, L up to TextLength
	Lengths *torch.Tensor // Int64 [N], how many of the L tokens are real, the first ones; nil: all of them

	// Modulations, where there are some, are looked up in the place of timesteps and Labels.
	Modulations *Modulations
	Rows        *torch.Tensor // Int64 [N], of Modulations
}

// validateCondition checks the condition, and the sizes that only some conditions have.
func (c Config) validateCondition() error {
	if !slices.Contains(ConditionKinds(), c.Condition) {
		return fmt.Errorf("condition %q: not a kind of condition", string(c.Condition))
	}
	switch {
	case c.HasClass() && (c.NumClasses < 1 || c.NumClasses > 1<<20):
		return fmt.Errorf("number of classes %d: want a number from 1 to %d", c.NumClasses, 1<<20)
	case !c.HasClass() && c.NumClasses != 0:
		return fmt.Errorf("number of classes %d: a model of condition %s has none", c.NumClasses, c.Condition)
	case !c.HasText() && (c.TextWidth != 0 || c.TextLength != 0):
		return fmt.Errorf("text of %d tokens of width %d: a model of condition %s has none", c.TextLength, c.TextWidth,
			c.Condition)
	case c.Condition == OnNothing && c.ClassDropoutProb != 0:
		return fmt.Errorf("class dropout probability %v: a model of condition none has nothing to drop",
			c.ClassDropoutProb)
	case c.HasText() && (c.TextWidth < 1 || c.TextWidth > 1<<16):
		return fmt.Errorf("text width %d: want a number from 1 to %d", c.TextWidth, 1<<16)
	case c.HasText() && (c.TextLength < 1 || c.TextLength > 1<<16):
		return fmt.Errorf("text length %d: want a number from 1 to %d", c.TextLength, 1<<16)
	}
	return nil
}
