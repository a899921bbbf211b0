package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/format"
	"github.com/ditrun/ditrun/cmd/ditrun/internal/progress"
	"github.com/ditrun/ditrun/internal/names"
	"github.com/ditrun/ditrun/torch"
	"github.com/ditrun/ditrun/torch/dist"
)

// commands lists the subcommands in the order in which help shows them.
func commands() []*cli.Command {
	return []*cli.Command{
		trainVAECommand(),
		encodeLatentsCommand(),
		classesCommand(),
		trainCommand(),
		launchCommand(),
		sampleCommand(),
		evalCommand(),
		modelsCommand(),
		planCommand(),
		scalingCommand(),
		benchCommand(),
		convertCommand(),
		inspectCommand(),
		fetchCommand(),
		doctorCommand(),
		versionCommand(),
		completionCommand(),
		helpCommand(),
	}
}

// run carries out one command line, args[0] being the program's name, and
// returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return runApp(ctx, newApp(stdout, stderr), args)
}

func runApp(ctx context.Context, app *cli.App, args []string) int {
	stderr := app.ErrWriter
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if o, ok := app.Writer.(*output); ok {
		o.closed = func() { cancel(errClosedPipe) }
	}
	err := protect(stderr, func() error { return app.RunContext(ctx, withFlagsFirst(app, args)) })
	if err == nil {
		err = lost(app.Writer)
	}
	return conclude(stderr, err, context.Cause(ctx))
}

// protect calls f and turns a panic, which is a bug, into an error. The stack
// is for us, not for users: it is printed only when asked for.
func protect(stderr io.Writer, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("internal: %v", r)
			if os.Getenv("DITRUN_DEBUG") == "1" {
				fmt.Fprintf(stderr, "panic: %v\n%s", r, debug.Stack())
				return
			}
			err = withHint(err, "this is a bug; run again with DITRUN_DEBUG=1 to see where, and report it")
		}
	}()
	return f()
}

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:                 "ditrun",
		HelpName:             "ditrun",
		Usage:                "trains and samples Diffusion Transformers",
		Version:              readVersion().Ditrun,
		Writer:               &output{Writer: stdout},
		ErrWriter:            stderr,
		Flags:                globalFlags(),
		Commands:             commands(),
		HideHelp:             true, // ours is in help.go
		EnableBashCompletion: true,
		OnUsageError:         onUsageError,
		// Errors are returned: run prints them and main exits.
		ExitErrHandler: func(*cli.Context, error) {},
	}
	app.Action = func(c *cli.Context) error {
		if !c.Args().Present() {
			return writeAppHelp(app.Writer, app)
		}
		return unknownCommand(app, c.Args().First())
	}
	return app
}

func unknownCommand(app *cli.App, name string) error {
	var commands []string
	for _, c := range app.VisibleCommands() {
		commands = append(commands, c.Name)
	}
	hint := "the commands are " + strings.Join(commands, ", ")
	if n := names.Nearest(name, commands); n != "" {
		hint = fmt.Sprintf("did you mean `ditrun %s`?", n)
	}
	return withHint(usagef("unknown command %q", name), "%s", hint)
}

// A spec describes a subcommand.
type spec struct {
	name        string
	usage       string // one line for the list of commands, no capital, no full stop
	description string // what a user must know, in a few lines
	example     string // one or more command lines that work
	args        string // names of positional arguments, "" if it takes none
	// flags are bound to the fields of the command's options by their Destination, and check looks at these options
	// alone, before the work: given says whether a flag was set, by the command line or by --config. The
	// command works with the options; no value is looked up by the name of its flag. The usage of a flag names its
	// value: see [flagUsage].
	flags []cli.Flag
	// required names the flags that help shows first, since the command needs them, and groups sorts the others by
	// purpose, for a command with many. The order of flags is another: that of config.yaml.
	required string
	groups   []group
	check    func(given func(flag string) bool) error // nil for none
	// fill sets flags that were not given to what a file says that one of them names; nil for none. To check they were
	// given.
	fill func(*cli.Context) error
	// defaults names a configuration whose values stand for flags that are not given, where the command line has no
	// --config; "" for none.
	defaults func() string
	alone    bool // one process does the work; started as one of several it refuses
	run      func(*env) error
	// resultInFiles says that output which cannot be written is a warning: the
	// result of the work, which may be long, is safe.
	resultInFiles bool
}

// newCommand makes the subcommand: with the global flags among its own, the
// help text in our form, usage errors in our words, and values from the file
// named by --config where the command has that flag.
func newCommand(s spec) *cli.Command {
	global := globalFlags()
	sections := s.sections(global)
	return &cli.Command{
		Name:         s.name,
		Usage:        s.usage,
		ArgsUsage:    s.args,
		Description:  s.description,
		Flags:        append(s.flags, global...),
		HideHelp:     true,
		OnUsageError: onUsageError,
		Action: func(c *cli.Context) error {
			if helpAsked(c) {
				return s.writeHelp(c.App.Writer, sections)
			}
			if s.args == "" && c.Args().Present() {
				return withHint(usagef("%s: unexpected argument %q", s.name, c.Args().First()), "%s",
					s.hintOfArgument(c.Args().First(), c.IsSet))
			}
			if s.alone {
				if err := checkAlone(s.name, os.Getenv); err != nil {
					return err
				}
			}
			if s.fill != nil {
				if err := s.fill(c); err != nil {
					return err
				}
			}
			e, err := newEnv(c, s.defaults) // which looks at the bounds of what was filled in, too
			if err != nil {
				return err
			}
			if s.check != nil {
				if err := s.check(c.IsSet); err != nil {
					return err
				}
			}
			err = e.carryOut(s.run)
			for _, text := range torch.TakeWarnings() {
				e.warn("%s", text)
			}
			if s.resultInFiles {
				if err := lost(e.stdout); err != nil {
					e.warn("%v: what was printed is lost, the result is not", err)
				}
			}
			return err
		},
	}
}

// hintOfArgument says which flag an argument of a command that takes none may belong to: the first of those that it
// needs, unless that was given.
func (s spec) hintOfArgument(arg string, given func(flag string) bool) string {
	needed, _, _ := strings.Cut(s.required, " ")
	if needed == "" || given(needed) {
		return fmt.Sprintf("`ditrun %s --help` lists the flags", s.name)
	}
	return fmt.Sprintf("did you mean --%s %s?", needed, shellQuoted(arg))
}

// checkAlone refuses to run as one of several processes, each of which would do the whole work. The first one says so.
func checkAlone(name string, getenv func(string) string) error {
	process, err := dist.Detect(getenv)
	switch {
	case err != nil || process.World == 1: // what is wrong in the environment does not matter here
		return nil
	case process.Rank > 0:
		return usagef("")
	}
	return withHint(usagef("%s: started as %d processes, each of which would do the whole work", name, process.World),
		"this command is one process; train, encode-latents and sample share their work")
}

// An env is what a subcommand runs in.
type env struct {
	ctx            context.Context // cancelled by the first interrupt
	flags          *cli.Context
	stdout, stderr io.Writer

	device  string // as given: auto, cpu, cuda, cuda:N
	threads int    // 0: as many as there are cores
	noFused bool   // see [torch.SetFused]
	json    bool
	quiet   bool

	free func(path string) int64 // bytes on the disk of a path; negative where that is not known

	mu  sync.Mutex
	bar *progress.Bar // the latest, nil before the first
}

// printf writes one line of the account of the work: to standard output, to
// standard error when that is kept for JSON, nowhere when quiet. The line end
// is added.
func (e *env) printf(text string, args ...any) {
	if e.quiet {
		return
	}
	w := e.stdout
	if e.json {
		w = e.stderr
	}
	e.write(w, format.Line(fmt.Sprintf(text, args...))+"\n")
}

// warn writes "ditrun: warning: ..." to standard error, also when quiet.
func (e *env) warn(format string, args ...any) {
	var b strings.Builder
	printMessage(&b, messageWidth(e.stderr), "warning", fmt.Sprintf(format, args...))
	e.write(e.stderr, b.String())
}

func (e *env) write(w io.Writer, s string) {
	e.mu.Lock()
	bar := e.bar
	e.mu.Unlock()
	if bar == nil {
		io.WriteString(w, s)
		return
	}
	bar.Interrupt(func() { io.WriteString(w, s) })
}

// result writes v as the JSON object that --json promises; without --json it
// does nothing. It is called once, at the end.
func (e *env) result(v any) error {
	if !e.json {
		return nil
	}
	enc := json.NewEncoder(e.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// carryOut does the work. A bar that is still there at its end belongs to work that failed.
func (e *env) carryOut(work func(*env) error) error {
	defer func() { e.begin(nil) }()
	return work(e)
}

// progress starts a bar on standard error; the caller ends it with Finish.
// See progress.New. It takes the place of the one before.
func (e *env) progress(title, unit string, total int64) *progress.Bar {
	return e.begin(progress.New(e.stderr, title, unit, total, e.quiet))
}

// progressBetweenLines is progress for work that prints log lines of its own.
func (e *env) progressBetweenLines(title, unit string, total int64) *progress.Bar {
	return e.begin(progress.BetweenLines(e.stderr, title, unit, total, e.quiet))
}

func (e *env) begin(bar *progress.Bar) *progress.Bar {
	if before := e.setBar(bar); before != nil {
		before.Abort()
	}
	return bar
}

// setBar returns the bar before. Goroutines that watch other processes of a run print too.
func (e *env) setBar(bar *progress.Bar) (before *progress.Bar) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before, e.bar = e.bar, bar
	return before
}

// waiting shows, where it takes long, that work goes on that is not counted, "opening latents", until done is called
// or another bar begins.
func (e *env) waiting(what string) (done func()) {
	return e.showPart(progress.Wait(e.stderr, what, e.quiet))
}

// showPart shows a bar of a part of the work in place of the one of the whole, until done is called.
func (e *env) showPart(part *progress.Bar) (done func()) {
	whole := e.setBar(part)
	if whole != nil {
		whole.Hide()
	}
	return sync.OnceFunc(func() {
		e.begin(whole)
		if whole != nil {
			whole.Show()
		}
	})
}
