// Command ditrun trains and samples Diffusion Transformers. It needs no
// Python: libtorch does the computing.
//
// Each subcommand has a file of its own, which binds flags to an options
// struct, checks it and makes one call into the libraries: so there are many
// files, and what another program could want is not among them. This package
// is the only place that prints or exits. Its rules for messages:
//
//   - Results and the account of the work go to standard output; errors,
//     warnings and progress go to standard error.
//   - With --json standard output holds one JSON object and nothing else; the
//     account moves to standard error. With --quiet there is none.
//   - An error is one line, "ditrun: error: ...", and, where the next step is
//     known, a second, "ditrun: hint: ...". Never a stack trace. Further lines
//     are indented. A terminal shows long ones broken between words.
//   - Names and other text from files are printed as they are, except for what
//     does not show: escape sequences, marks that turn the direction of
//     writing, bytes that are no UTF-8. format.Text and format.Line make these
//     visible where text leaves this package: env.printf (whose line ends show
//     too: it writes one line), printMessage (where those in a name only begin
//     an indented line), columns and progress.Bar. So no message has to quote
//     for the terminal; "%q" is for names that may hold blanks.
//   - Standard output that cannot be written is an error at the end, code 1;
//     for a command whose result is in files it is a warning.
//   - Exit codes: 0 the work is done, also where a signal came too late to cut it
//     short; 1 failed; 2 wrong usage. Work that a signal cut short ends with 128
//     and its number: 130 an interrupt, 143 SIGTERM, 129 SIGHUP, even if what was
//     done is kept. The one exception is for schedulers: train that SIGTERM or
//     SIGHUP stopped, and that saved all it did for --resume, ends with 0. launch
//     ends with the code of the process that failed first.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	_ "github.com/ditrun/ditrun/torch/keeppages" // the memory of tensors is kept for the next ones
)

// The causes of a context that a signal cancelled.
var (
	errInterrupted = errors.New("interrupted")
	errTerminated  = errors.New("terminated")
	errHangup      = errors.New("the terminal was closed")
	errClosedPipe  = errors.New("the reader of the output is gone")
)

func main() {
	prepareEnvironment() // before anything that may load libtorch
	// A file beyond the user's limit, and a pipe that nobody reads, are then errors of the write, not the end of
	// the process.
	signal.Ignore(syscall.SIGXFSZ, syscall.SIGPIPE)
	os.Exit(run(withSignals(context.Background()), os.Args, os.Stdout, os.Stderr))
}

// stopSignals end a command once it has saved its work, with these causes. Of those that were ignored when the program
// began, as SIGHUP is under nohup, none is listened to.
var stopSignals = map[os.Signal]error{
	syscall.SIGINT: errInterrupted, syscall.SIGTERM: errTerminated, syscall.SIGHUP: errHangup,
}

// withSignals returns a context that the first of stopSignals cancels, so that the command can save its work; a
// second interrupt or SIGTERM exits at once. A second hang-up does not: a terminal that is closed sends one, and
// the shell in it another.
func withSignals(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 8)
	for sig := range stopSignals {
		if !signal.Ignored(sig) {
			signal.Notify(signals, sig)
		}
	}
	go func() {
		first := <-signals
		fmt.Fprintln(os.Stderr, "ditrun: stopping; interrupt again to stop at once")
		cancel(stopSignals[first])
		for sig := range signals {
			if sig == syscall.SIGINT || sig == syscall.SIGTERM {
				os.Exit(signalCode(stopSignals[sig]))
			}
		}
	}()
	return ctx
}
