// Command tokenize prints the ids of texts, for bench/parity/check_tokenizer.py. It reads one JSON string a line and
// prints the ids of its content in a line, without start, end and padding, and without a limit.
//
//	tokenize FOLDER-OR-FILE
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/ditrun/ditrun/dit/text/bpe"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "tokenize:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return errors.New("usage: tokenize FOLDER-OR-FILE")
	}
	t, err := bpe.Open(os.Args[1])
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	for in := json.NewDecoder(os.Stdin); ; {
		var text string
		if err := in.Decode(&text); errors.Is(err, io.EOF) {
			return out.Flush()
		} else if err != nil {
			return err
		}
		for i, id := range t.Content(text, math.MaxInt) {
			if i > 0 {
				out.WriteByte(' ')
			}
			fmt.Fprint(out, id)
		}
		out.WriteByte('\n')
	}
}
