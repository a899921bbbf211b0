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

func launchCommand() *cli.Command {
	return newCommand(spec{
		name:  launchName,
		usage: "run a command as several processes on this machine",
		description: "Starts the command N times, with what each must know in its environment,\n" +
			"as torchrun does. When one fails the others are ended, and all are\n" +
			"started again as often as --max-restarts allows. Process 0 writes as\n" +
			"always; what the others say carries their number.",
		example: "ditrun launch -n 2 train --data latents --model DiT-S/2 --resume auto",
		args:    "COMMAND [options]",
		flags: []cli.Flag{
			&cli.IntFlag{Name: "num-processes", Aliases: []string{"n"}, DefaultText: "required",
				Usage: "start `N` processes, one for each GPU"},
			&cli.IntFlag{Name: "max-restarts", Usage: "start all again up to `K` times after one failed"},
		},
		run: runLaunch,
	})
}

// launchGrace is for the other processes to say what they saw of a failure, and again to save after SIGTERM.
const launchGrace = 15 * time.Second

func runLaunch(e *env) error {
	c := e.flags
	if !c.IsSet("num-processes") {
		return withHint(usagef("launch: --num-processes is required"), "`ditrun launch --help` shows an example")
	}
	if err := e.atLeast(1, "num-processes"); err != nil {
		return err
	}
	if err := e.atLeast(0, "max-restarts"); err != nil {
		return err
	}
	args := c.Args().Slice()
	if len(args) == 0 {
		return withHint(usagef("launch: no command to run"), "`ditrun launch --help` shows an example")
	}
	if c.App.Command(args[0]) == nil {
		return unknownCommand(c.App, args[0])
	}
	if args[0] == c.Command.Name {
		return usagef("launch: cannot launch itself")
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
		Path: self, Args: slices.Concat(e.globalArgs(), args), N: c.Int("num-processes"),
		MaxRestarts: c.Int("max-restarts"),
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

// globalArgs returns the global flags as another ditrun takes them.
func (e *env) globalArgs() []string {
	args := []string{"--device", e.device, "--threads", fmt.Sprint(e.threads)}
	if e.json {
		args = append(args, "--json")
	}
	if e.quiet {
		args = append(args, "--quiet")
	}
	return args
}
