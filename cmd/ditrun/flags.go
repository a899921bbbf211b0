package main

import (
	"fmt"
	"math"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// globalFlags may stand before the subcommand or after it. They are made anew
// for each, since a flag keeps what it parsed.
func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "device", Value: "auto",
			Usage: "compute on `DEVICE`: auto, cpu, cuda or cuda:N"},
		&cli.IntFlag{Name: "threads", DefaultText: "one per core",
			Usage: "use `N` threads on the CPU"},
		&cli.BoolFlag{Name: "no-fused", DisableDefaultText: true,
			Usage: "compute with libtorch's operations alone"},
		&cli.BoolFlag{Name: "json", DisableDefaultText: true,
			Usage: "write the result as one JSON object"},
		&cli.BoolFlag{Name: "quiet", DisableDefaultText: true,
			Usage: "write only results, warnings and errors"},
		&cli.BoolFlag{Name: "help", Aliases: []string{"h"}, DisableDefaultText: true, Usage: "show this help"},
	}
}

var deviceName = regexp.MustCompile(`^(auto|cpu|cuda|cuda:\d+)$`)

// newEnv collects the values of the global flags. It looks at their form only;
// whether the device exists is found when it is opened. Defaults is that of [spec], nil for none.
func newEnv(c *cli.Context, defaults func() string) (*env, error) {
	// What was set before the subcommand counts unless it was set after it.
	for _, name := range []string{"device", "threads", "no-fused", "json", "quiet"} {
		for _, outer := range c.Lineage() {
			if slices.Contains(outer.LocalFlagNames(), name) {
				if err := c.Set(name, fmt.Sprint(outer.Value(name))); err != nil {
					return nil, err
				}
				break
			}
		}
	}
	config := ""
	if slices.Contains(c.FlagNames(), "config") {
		config = c.String("config")
	}
	if config == "" && defaults != nil {
		config = defaults()
	}
	if config != "" {
		if err := applyConfig(c, config); err != nil {
			return nil, err
		}
	}
	e := &env{
		ctx:     c.Context,
		flags:   c,
		stdout:  c.App.Writer,
		stderr:  c.App.ErrWriter,
		device:  c.String("device"),
		threads: c.Int("threads"),
		noFused: c.Bool("no-fused"),
		json:    c.Bool("json"),
		quiet:   c.Bool("quiet"),
		free:    freeOf(c.Context),
	}
	if !deviceName.MatchString(e.device) {
		return nil, usagef("--device %q: want auto, cpu, cuda or cuda:N", e.device)
	}
	if e.threads < 0 {
		return nil, usagef("--threads %d: want at least 1, or 0 for one per core", e.threads)
	}
	return e, e.withinBounds()
}

// mostOf is the largest value of a whole-number flag, whatever the command: where a slip of the keyboard would
// bring the computer to a halt it is near what anybody may want, else what 32 bits hold.
func mostOf(flag string) (most int, why string) {
	switch flag {
	case "threads":
		return 4 * runtime.NumCPU(), ", four times the cores"
	case "num-workers", "num-processes", "preview":
		return 1 << 10, ""
	case "image-size", "latent-channels", "downsample", "layers-per-block", "norm-num-groups":
		return 1 << 16, ""
	case "rounds", "steps": // a sampling run has at most so many steps
		return 1000, ""
	case "num-samples":
		return maxSamples, ""
	case "batch-size", "global-batch-size", "gradient-accumulation-steps", "num-classes":
		return 1 << 20, ""
	}
	return math.MaxInt32, ""
}

// withinBounds returns a usage error for the first whole-number flag that is negative or too large.
func (e *env) withinBounds() error {
	for _, f := range e.flags.Command.Flags {
		if _, ok := f.(*cli.IntFlag); !ok {
			continue
		}
		name := f.Names()[0]
		v := e.flags.Int(name)
		most, why := mostOf(name)
		if v < 0 {
			return usagef("--%s %d: want at least 0", name, v)
		}
		if v > most {
			return usagef("--%s %d: want at most %d%s", name, v, most, why)
		}
	}
	return nil
}

// A required flag is one without which a command cannot begin.
type required struct{ name, value string }

// require returns a usage error that names those of the flags that have no value.
func require(command string, flags ...required) error {
	var missing []string
	for _, f := range flags {
		if f.value == "" {
			missing = append(missing, "--"+f.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	verb := "is"
	if len(missing) > 1 {
		verb = "are"
	}
	return withHint(usagef("%s: %s %s required", command, strings.Join(missing, " and "), verb),
		"`ditrun %s --help` shows an example", command)
}

// refuseEmpty returns a usage error for the first of flags that was given an empty value, which a library would take
// for its default: mostly it is a variable that is not set.
func refuseEmpty(flags ...required) error {
	for _, f := range flags {
		if f.value == "" {
			return usagef("--%s: the value is empty", f.name)
		}
	}
	return nil
}

// atLeast returns a usage error when the value of a flag is below least.
func atLeast(least int, flag string, value int) error {
	if value < least {
		return usagef("--%s %d: want at least %d", flag, value, least)
	}
	return nil
}

// oneOf returns a usage error when the value of a flag is not among the choices.
func oneOf(flag, value string, choices ...string) error {
	if !slices.Contains(choices, value) {
		return usagef("--%s %q: want %s", flag, value, strings.Join(choices, ", "))
	}
	return nil
}

// ofFlag makes a usage error of one about a value, which begins with the name of its flag: "block x: want ...".
func ofFlag(err error) error {
	if err == nil {
		return nil
	}
	return usageError{fmt.Errorf("--%w", err)}
}

var (
	undefinedFlag = regexp.MustCompile(`^flag provided but not defined: -+(.*)$`)
	missingValue  = regexp.MustCompile(`^flag needs an argument: -+(.*)$`)
	twoForms      = regexp.MustCompile(`^Cannot use two forms of the same flag: (\S+) (\S+)$`)
	badValue      = regexp.MustCompile(`^invalid (?:boolean )?value "(.*)" for (?:flag )?-+([^:]*): (.*)$`)
)

// onUsageError says in our words what the flag parser could not read.
func onUsageError(c *cli.Context, err error, isSubcommand bool) error {
	msg, command := err.Error(), "ditrun"
	if isSubcommand {
		command += " " + c.Command.Name
	}
	hint := fmt.Sprintf("`%s --help` lists the flags", command)
	switch {
	case undefinedFlag.MatchString(msg):
		name := undefinedFlag.FindStringSubmatch(msg)[1]
		var flags []string
		for _, f := range c.Command.VisibleFlags() {
			flags = append(flags, f.Names()[0])
		}
		if h := hintOfFlag(c.Command.Name, "--", name, flags); h != "" {
			hint = h
		}
		msg = fmt.Sprintf("unknown flag --%s", name)
	case missingValue.MatchString(msg):
		msg = fmt.Sprintf("--%s: a value is missing", missingValue.FindStringSubmatch(msg)[1])
	case twoForms.MatchString(msg):
		m := twoForms.FindStringSubmatch(msg)
		msg = fmt.Sprintf("--%s and --%s are two names of one flag: give one of them", m[1], m[2])
	case badValue.MatchString(msg):
		m := badValue.FindStringSubmatch(msg)
		msg = fmt.Sprintf("--%s %q: %s", m[2], m[1], unreadable(c, m[2], m[3]))
	}
	return withHint(usageError{fmt.Errorf("%s", msg)}, "%s", hint)
}

// unreadable says why a flag does not take a value, from the error of its parser.
func unreadable(c *cli.Context, name, err string) string {
	if wanted := wanted(c, name); strings.Contains(err, "value out of range") && wanted == "a whole number" {
		most, _ := mostOf(name)
		return fmt.Sprintf("want %s from 0 to %d", wanted, most)
	}
	return strings.Replace(err, "parse error", "want "+wanted(c, name), 1)
}

// wanted says what kind of value a flag takes.
func wanted(c *cli.Context, name string) string {
	for _, f := range c.Command.Flags {
		if !slices.Contains(f.Names(), name) {
			continue
		}
		switch f.(type) {
		case *cli.IntFlag, *cli.Int64Flag, *cli.IntSliceFlag:
			return "a whole number"
		case *cli.UintFlag, *cli.Uint64Flag:
			return "a whole number that is not negative"
		case *cli.Float64Flag:
			return "a number"
		case *cli.BoolFlag:
			return "true or false"
		}
	}
	return "another value"
}
