package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/ditrun/ditrun/cmd/ditrun/internal/launcher"
)

// launchName is the command whose arguments are the command line of another.
const launchName = "launch"

// launchOptions are the flags of launch.
type launchOptions struct{ numProcesses, maxRestarts int }

func (o *launchOptions) flags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "num-processes", Aliases: []string{"n"}, Destination: &o.numProcesses,
			Usage: "start `N` processes, one for each GPU"},
		&cli.IntFlag{Name: "max-restarts", Destination: &o.maxRestarts,
			Usage: "start all again up to `N` times when one fails"},
	}
}

func (o *launchOptions) check(given func(string) bool) error {
	if !given("num-processes") {
		return require(launchName, required{"num-processes", ""})
	}
	return atLeast(1, "num-processes", o.numProcesses)
}

func launchCommand() *cli.Command {
	o := &launchOptions{}
	return newCommand(spec{
		name:  launchName,
		usage: "run a command as several processes on this machine",
		description: "Starts the command N times and gives each process its number in the\n" +
			"environment, as torchrun does. When one fails, the others are ended, and\n" +
			"all start again as often as --max-restarts allows. Process 0 prints as it\n" +
			"would alone; lines of the others begin with their number.",
		example:  "ditrun launch -n 2 train --data latents --model DiT-S/2 --resume auto",
		args:     "COMMAND [options]",
		flags:    o.flags(),
		required: "num-processes",
		check:    o.check,
		run:      func(e *env) error { return runLaunch(e, o) },
	})
}

// launchGrace is how long the other processes may take to report a failure, and again to save after SIGTERM.
const launchGrace = 15 * time.Second

func runLaunch(e *env, o *launchOptions) error {
	args, err := e.commandToLaunch()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 8)
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(sig) {
			signal.Notify(signals, sig)
		}
	}
	defer signal.Stop(signals)
	job := launcher.Job{
		Path: self, Args: slices.Concat(e.globalArgs(), args), N: o.numProcesses,
		MaxRestarts: o.maxRestarts,
		Stdout:      direct(e.stdout), Stderr: e.stderr, Signals: signals, Grace: launchGrace, Log: e.warn,
	}
	err = job.Run(e.ctx)
	if exit := (*launcher.ExitError)(nil); errors.As(err, &exit) {
		if cause := context.Cause(e.ctx); signalCode(cause) == exit.Code {
			return cause
		}
		return codeError{err, exit.Code}
	}
	return err
}

// commandToLaunch returns the command line of the processes.
func (e *env) commandToLaunch() ([]string, error) {
	args, app := e.flags.Args().Slice(), e.flags.App
	switch {
	case len(args) == 0:
		return nil, withHint(usagef("launch: no command to run"), "`ditrun launch --help` shows an example")
	case app.Command(args[0]) == nil:
		return nil, unknownCommand(app, args[0])
	case args[0] == launchName:
		return nil, usagef("launch: cannot launch itself")
	}
	return args, nil
}

// globalArgs returns the global flags as another ditrun takes them.
func (e *env) globalArgs() []string {
	args := []string{"--device", e.device, "--threads", fmt.Sprint(e.threads)}
	if e.noFused {
		args = append(args, "--no-fused")
	}
	if e.json {
		args = append(args, "--json")
	}
	if e.quiet {
		args = append(args, "--quiet")
	}
	return args
}
