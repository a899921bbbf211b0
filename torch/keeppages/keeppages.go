// Package keeppages makes the process keep the memory that C code, libtorch's CPU tensors above all, has freed. It has
// no names: package main of a program that computes much on the CPU imports it for its effect.
//
//	import _ "github.com/ditrun/ditrun/torch/keeppages"
//
// glibc gives each large block a mapping of its own and unmaps it when it is freed. The system then fills the pages of
// each activation with zeros anew, at one page fault per 4 KiB in every operation, which was 4 to 15 % of a training
// step when it was measured. With this package all threads allocate from one arena that has no upper limit for a block
// and is never trimmed. The price is that the process does not shrink: what C code once held at the same time stays
// with it.
//
// It is an import and not a call because it has to come before the process has a second thread, and a Go program has
// several when main begins. A thread keeps the arena that it began with, and arenas other than the first map each block
// over 64 MiB anew, whatever the settings.
//
// Libraries must not import it: what a process does with its memory is for the program to decide.
package keeppages

import "C"
